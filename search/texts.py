"""What a text on the command line means: its source, what it must fit, the compiled model."""

from collections.abc import Iterable, Mapping

from einspace.compile import Compiled, compile_text
from einspace.interface import Interface
from einspace.library import resolve
from grammar.errors import Source, SpaceError
from ops.spec import parse_type
from search.tasks import find


def meant(text: str, task: str | None = None, kind: str | None = None) -> tuple[Source, Interface]:
    """The source of a file, a shipped name or the text itself, and what it must fit.

    `task` names a task, `kind` writes a type of one input `x`, and after `->` the one wanted at the
    end, which `head` aims at; without both, the header of a shipped text says its task.
    Raises: SpaceError.
    """
    source, default = resolve(text)
    if task and kind:
        raise SpaceError("give --task or --input, not both")
    if kind:
        try:
            given, arrow, wanted = kind.partition("->")
            return source, Interface(
                {"x": parse_type(given)}, parse_type(wanted) if arrow else None
            )
        except ValueError as error:
            raise SpaceError(str(error)) from None
    name = task or default
    if name is None:
        raise SpaceError("nothing says what flows in", hint="add --task NAME or --input TYPE")
    return source, find(name).interface


def compiled(text: str, task: str | None = None, kind: str | None = None) -> Compiled:
    """`meant`, compiled. Raises: SpaceError."""
    source, interface = meant(text, task, kind)
    return compile_text(source.text, interface, source.name)


def facts(found: Compiled) -> dict[str, object]:
    """What `check` proves, as JSON shows it."""
    names = ("text", "hash", "input", "output", "params", "flops", "state_bytes", "causal")
    return {"ok": True, **{n: getattr(found, n) for n in (*names, "nodes", "depth")}}


def values(pairs: Iterable[str]) -> Mapping[str, float]:
    """`["p=0.4"]` as `{"p": 0.4}`. Raises: SpaceError."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise SpaceError(f"--set {pair} is not name=number") from None
    return found
