"""The ops of this process: shipped ones, those of installed packages, those of the user's files.

A package offers ops in the entry point group `einspace.ops`: each name gives the `Op` of that name.
A file (`einspace/opfiles.py`) defines `OP`, or `OPS` and several, and may hold `CASES` for the
contract. Both are code and are run: give and install only what you trust.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

import ops
from einspace import userfile
from einspace.opfiles import content_of, listed
from grammar.domain import Domain
from grammar.errors import OpError
from grammar.forms import FORMS, RESERVED
from ops.case import Case
from ops.source import impurities, name_clashes
from ops.spec import Op

GROUP = "einspace.ops"
FAMILY = "user"
HINT = "it imports what is installed, not files beside it, and defines OP or OPS"


@dataclass(frozen=True, slots=True)
class Book:
    """Where ops came from, the ops, and their cases for the contract by op name."""

    where: str
    ops: tuple[Op, ...]
    cases: Mapping[str, tuple[Case, ...]]


@cache
def book(name: str) -> Book:
    """The ops of a file, a path or ref. Raises: OpError."""
    path, asked = userfile.split(name)
    content = content_of(path, asked=asked)
    module = userfile.run(path.resolve(), content, kind="ops", fault=OpError, hint=HINT)
    made = vars(module)
    if "OP" not in made and "OPS" not in made:
        raise OpError(f"{path} defines neither OP nor OPS", hint="docs/CONTRIBUTING.md shows one")
    found = made["OPS"] if "OPS" in made else (made["OP"],)
    return _book(str(path), found, made.get("CASES", ()))


def _book(where: str, found: object, cases: object) -> Book:
    if not isinstance(found, Sequence) or not found or not all(isinstance(o, Op) for o in found):
        raise OpError(f"{where}: OP is no ops.spec.Op, or OPS no tuple of them", hint=HINT)
    rows = tuple(found)
    by_name: Mapping[str, Any] = cases if isinstance(cases, Mapping) else {rows[0].name: cases}
    for name, own in by_name.items():
        plain = isinstance(own, Sequence) and all(isinstance(c, Case) for c in own)
        if not plain or name not in {o.name for o in rows}:
            raise OpError(
                f"{where}: CASES are not cases of its ops",
                hint="a list of ops.case.Case, or for several ops {name: list}",
            )
    for op in rows:
        _check(op, where)
    guarded = tuple(_guarded(op, where) for op in rows)
    return Book(where, guarded, {name: tuple(own) for name, own in by_name.items()})


def _check(op: Op, where: str) -> None:
    """What the platform takes for granted of every row. Raises: OpError."""
    if not isinstance(op.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", op.name):
        raise OpError(f"{where}: an op is named {op.name!r}", hint="lower case letters, digits, _")
    if op.name in RESERVED or op.name in FORMS:
        raise OpError(f"{where}: {op.name!r} is a word of the language", hint="choose another name")
    if not (isinstance(op.module, type) and issubclass(op.module, nn.Module)):
        raise OpError(
            f"{where}: '{op.name}' has the module {str(op.module)[:60]}", hint="a nn.Module class"
        )
    for name, domain in op.params.items():
        if not all(hasattr(domain, word) for word in ("default", "accept", "grid", "describe")):
            raise OpError(
                f"{where}: {name} of '{op.name}' is {domain!r}",
                hint=f"a {Domain.__module__} such as Int(1, 8)",
            )
    try:
        found = impurities(op)
    except (OSError, TypeError) as error:
        raise OpError(
            f"{where}: the source of '{op.name}' cannot be read: {userfile.words(error)}",
            hint="write its classes and functions in the file",
        ) from error
    if found:
        raise OpError(
            f"{where}: an export could not hold '{op.name}': {'; '.join(found)}",
            hint="name functions and classes of the file in Op.uses; torch, math, nn, F are there",
        )


def _guarded(op: Op, where: str) -> Op:
    """The row with what it calls turned into one error where it fails, a `Mismatch` apart."""

    def guard(word: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*types: Any, **params: Any) -> Any:
            try:
                return call(*types, **params)
            except userfile.FAULTS as error:
                line = userfile.line_of(error, Path(call.__code__.co_filename))
                raise OpError(
                    f"{where}: `{word}` of '{op.name}' fails: {userfile.words(error)}{line}",
                    hint="it takes the types and every parameter; a type that does not fit is a "
                    "Mismatch",
                ) from error

        return called

    return replace(
        op,
        shape=guard("shape", op.shape),
        cost=guard("cost", op.cost),
        init=guard("init", op.init),
        causal=op.causal if isinstance(op.causal, bool) else guard("causal", op.causal),
    )


@cache
def installed() -> tuple[Book, ...]:
    """The ops that installed packages offer. Raises: OpError naming the package at fault."""
    found = []
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            op = point.load()
        except userfile.FAULTS as error:
            raise OpError(
                f"the op {point.name!r} of {package} cannot be imported: {userfile.words(error)}",
                hint=f"mend or remove the package that offers it in group {GROUP!r}",
            ) from error
        home = sys.modules.get(getattr(getattr(op, "module", None), "__module__", ""))
        made = _book(package, (op,), getattr(home, "CASES", ()))
        if made.ops[0].name != point.name:
            raise OpError(
                f"the entry point {point.name!r} of {package} gives an op named {op.name!r}",
                hint="entry point and op have the same name",
            )
        found.append(made)
    return tuple(found)


@cache
def _rows(listed: tuple[str, ...]) -> tuple[Mapping[str, Op], Mapping[str, str]]:
    """Op by name and family by name, of the shipped ops and all others."""
    kinds = dict(ops.families())
    rows = dict(ops.table())
    owner = dict.fromkeys(rows, "einspace")
    for extra in (*installed(), *map(book, listed)):
        for op in extra.ops:
            if op.name in rows:
                raise OpError(
                    f"{extra.where}: there is an op {op.name!r} already, of {owner[op.name]}",
                    hint="choose another name",
                )
            rows[op.name], kinds[op.name], owner[op.name] = op, FAMILY, extra.where
    if FAMILY in kinds.values():
        clashes = name_clashes(rows.values())
        if clashes:
            raise OpError(clashes[0], hint="an exported file would hold one of the two: rename it")
    names = sorted(rows)
    return MappingProxyType({n: rows[n] for n in names}), MappingProxyType(kinds)


@contextmanager
def blamed(names: Iterable[str]) -> Iterator[None]:
    """Where one of these ops is a user's, what fails here is told as one error.

    Raises: OpError in place of what the model raised.
    """
    try:
        yield
    except userfile.FAULTS as error:
        kinds = families()
        own = sorted({name for name in names if kinds.get(name) == FAMILY})
        if not own:
            raise
        raise OpError(
            f"the model with {', '.join(own)} does not run: {userfile.words(error)}",
            hint="`einspace ops test` shows which clause of the contract is broken",
        ) from error


def table() -> Mapping[str, Op]:
    """All ops by name. The first call imports torch and every op file. Raises: OpError."""
    return _rows(listed())[0]


def families() -> Mapping[str, str]:
    """Op name -> family: the folder it lives in, `user` where it is not shipped."""
    return _rows(listed())[1]
