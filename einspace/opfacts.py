"""What is known of an op without running it: where it fits, what it costs there, how that grows.

The facts are computed from the op's own `shape` and `cost`, never written beside it. An op's
`example` serves where no plain call of it would be a sentence.
"""

import inspect
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from einspace.compile import Compiled, compile_text
from einspace.draw import word_of
from einspace.interface import Interface
from grammar.domain import Domain, Flag, Float, Int, Ints, Required, Scalar, Word
from grammar.errors import OpError
from ops.case import Bench, Case
from ops.source import is_kernel
from ops.spec import Cost, Mismatch, Op, TensorType, parse_type, scores

LENGTH = 64
TARGET = scores(10)
TYPES = ("seq[64,128]", "image[16,16,16]", "image[1,16,16]", "tokens[64]", "vec[128]", "scores[10]")
INPUTS = ("seq[64,128]", "seq[64,1]", "tokens[64]")
FIRST: Mapping[str, Scalar] = {"dim": 64, "kernel": 3, "size": 4, "window": 16, "copies": 2}
# Tokens at which growth is read off: many, so that what grows fastest outweighs the rest; fewer
# where an op takes no more.
MANY = (2**20, 2**12, 2**10, 2**8, 2**6)


@dataclass(frozen=True, slots=True)
class Fit:
    """A place where an op fits: the types that come in, those of further inputs, parameters."""

    op: Op
    types: tuple[TensorType, ...]
    inputs: tuple[TensorType | None, ...]
    given: Mapping[str, Scalar]  # the parameters that have no default

    @property
    def case(self) -> Case:
        """The place as a case of the contract."""
        x = self.types if self.op.variadic else self.types[0]
        return Case(x, self.given, self.inputs, TARGET)

    @property
    def words(self) -> dict[str, Any]:
        """All parameters and what `needs` adds."""
        return Bench(self.op, self.case).params

    @property
    def cost(self) -> Cost:
        return self.op.cost(*self.types, *self.inputs, **self.words)

    @property
    def causal(self) -> bool:
        return self.op.is_causal(*self.types, *self.inputs, **self.words)

    def fits(self) -> bool:
        """Whether the op's own rules accept it."""
        try:
            self.op.shape(*self.types, *self.inputs, **self.words)
            self.op.init(*self.types, **self.words)
        except Mismatch:
            return False
        return True

    def longer(self, length: int) -> "Fit":
        """The same with another number of tokens, in x and in the inputs aligned with it."""

        def stretched(kind: TensorType | None) -> TensorType | None:
            if kind is None or kind.kind == "image":
                return kind
            if kind.kind == "tuple":
                parts = tuple(stretched(t) or t for t in kind.items)
                return replace(kind, items=parts)
            return replace(kind, shape=(length, *kind.shape[1:]), grid=None)

        types = tuple(stretched(t) or t for t in self.types)
        return replace(self, types=types, inputs=tuple(map(stretched, self.inputs)))


def choices(name: str, domain: Domain) -> list[Scalar]:
    """A few values of a parameter without a default, the likely ones first."""
    if isinstance(domain, Word):
        return list(domain.options)
    if isinstance(domain, Flag):
        return [False, True]
    tried: list[Scalar] = [FIRST.get(name), 4, 2, 8, 16, 3, 1]
    if isinstance(domain, Float):
        tried = [0.5, 0.1, 1.0, domain.low]
    if isinstance(domain, Int):
        tried.append(domain.low)
    if isinstance(domain, Ints):
        tried = [(2, 1), (1,)]
    found: list[Scalar] = []
    for value in tried:
        try:
            accepted = domain.accept(value)
        except ValueError:
            continue
        if accepted is not None and accepted not in found:
            found.append(accepted)
    return found


def fits_of(op: Op, types: tuple[TensorType, ...], inputs: tuple[TensorType, ...]) -> Iterator[Fit]:
    """The places among these types where the op fits, with parameters that fit there."""
    wanted = {n: d for n, d in op.params.items() if isinstance(d.default, Required)}
    for kind in types:
        needed = []
        for declared in op.inputs:
            many = [TensorType("tuple", (), (t, t)) for t in (kind, *inputs)]
            options = many if declared.many else [kind, *inputs]
            needed.append([None] if declared.optional else options)
        values = [choices(name, domain) for name, domain in wanted.items()]
        for further in itertools.product(*needed):
            for combination in itertools.islice(itertools.product(*values), 200):
                given = dict(zip(wanted, combination, strict=True))
                fit = Fit(op, (kind, kind) if op.variadic else (kind,), further, given)
                if fit.fits():
                    yield fit
                    break


def place(op: Op) -> Fit | None:
    """The first of the usual types at which the op fits."""
    kinds, further = (tuple(map(parse_type, names)) for names in (TYPES, INPUTS))
    return next(fits_of(op, kinds, further), None)


def call(fit: Fit) -> str:
    """The op called there, as a sentence."""
    words = [f"{name}={word_of(value)}" for name, value in fit.given.items()]
    needed = [i for i, kind in zip(fit.op.inputs, fit.inputs, strict=True) if kind is not None]
    words += [f"{declared.name}=@e" for declared in needed]
    text = fit.op.name + (f"({', '.join(words)})" if words else "")
    if fit.op.variadic:
        return f"fork(id, id) >> {text}"
    return f"id as e >> {text}" if needed else text


def example(op: Op) -> tuple[str, str, Compiled]:
    """An input type, a sentence with the op that checks there, and what it compiles to.

    Raises: OpError where neither the op's `example` nor a plain call is one.
    """
    kind, colon, text = op.example.partition(": ")
    if not colon:
        fit = place(op)
        if fit is None:
            raise OpError(
                f"no example of '{op.name}' is known",
                hint='give its Op example="TYPE: SENTENCE", such as "seq[8,16]: relu"',
            )
        kind, text = str(fit.types[0]), call(fit)
    target = TARGET if "target" in op.needs else None
    face = Interface({"x": parse_type(kind)}, target)
    return kind, text, compile_text(text, face, f"example of {op.name}")


def growth(op: Op, what: str) -> str:
    """How `flops` or `state` grow with the number of tokens T: "1", "T", "T^2"; "-" is none of it.

    FLOPs are those of the reference, matmuls only; the state is that of the causal form.
    """
    fit = place(op)
    at = _of_example(op, what) if fit is None else _of_place(fit, what)
    if not any(at):
        return "-"
    rises = at[1] - at[0], at[2] - at[1]
    if min(rises) <= 0:
        return "1"
    power = math.log2(rises[1] / rises[0])
    near = round(power)
    return ("T" if near == 1 else f"T^{near}") if abs(power - near) < 0.2 else f"T^{power:.1f}"


def _of_place(fit: Fit, what: str) -> list[int]:
    """A cost at three lengths, each twice the one before; empty where there is no length."""
    if fit.types[0].kind not in ("seq", "tokens"):
        return []
    if what == "state" and "causal" in fit.op.params:
        fit = replace(fit, given={**fit.given, "causal": True})
    sizes = (tuple(fit.longer(length << k) for k in range(3)) for length in MANY)
    three = next((s for s in sizes if all(f.fits() for f in s)), ())
    return [getattr(f.cost, what) for f in three]


def _of_example(op: Op, what: str) -> list[int]:
    """The same for an op that only its example places."""
    kind, _, text = op.example.partition(": ")
    found = re.fullmatch(r"(seq|tokens)\[\d+(.*)", kind)
    if found is None:
        return []
    at = []
    for length in (2**10, 2**11, 2**12):
        face = Interface({"x": parse_type(f"{found[1]}[{length}{found[2]}")})
        nodes = compile_text(text, face).graph.nodes
        at.append(next(getattr(n.cost, what) for n in nodes if n.op == op.name))
    return at


def causality(op: Op) -> bool | str:
    """True, False, or "depends": on its parameters or inputs."""
    return op.causal if isinstance(op.causal, bool) else "depends"


def page(op: Op) -> str:
    """The mathematics: the docstring of the op's file, of its class where a file has several."""
    own = inspect.getdoc(op.module) if op.module.__doc__ else None
    file = inspect.getdoc(inspect.getmodule(op.module)) or ""
    return own if own and not op.module.__module__.startswith("ops.") else file or own or ""


def about(op: Op) -> str:
    """One line: what the docstring says first."""
    return page(op).partition("\n")[0].strip().rstrip(".")


def engine(op: Op) -> str:
    """The files that the op's `uses` come from, other than its own; "" for none.

    They are those of the references: the same where triton is not installed.
    """
    files = {part.__module__ for part in op.uses if not is_kernel(part)} - {op.module.__module__}
    files = {name for name in files if not name.endswith(("_launch", ".dispatch"))}
    return ", ".join(sorted(name.replace(".", "/") + ".py" for name in files))
