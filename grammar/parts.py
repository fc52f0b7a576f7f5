"""The pieces of the walk: places, steps, names and the closures of rule arguments."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grammar.ast import Expr


@dataclass(frozen=True, slots=True)
class Label:
    """A named value and the name it has in the closed sentence."""

    value: object
    closed: str


Scope = Mapping[str, "Label | tuple[Label, ...]"]


@dataclass(frozen=True, slots=True)
class Closure:
    """An argument: the caller's text with the caller's names; derived once a call."""

    body: Expr
    place: "Place"
    scope: Scope


@dataclass(frozen=True, slots=True)
class Place:
    """Where the walk stands."""

    address: str = ""
    module: str = ""
    env: Mapping[str, Closure] = None  # type: ignore[assignment]  # set by `Walk.start`
    depth: int = 0
    output: str = ""

    def at(self, part: str | int) -> "Place":
        address, module = f"{self.address}/{part}", f"{self.module}/{part}"
        return Place(address, module, self.env, self.depth, self.output)

    def copy(self, index: int) -> "Place":
        mark = f"[{index}]"
        address, module = self.address + mark, self.module + mark
        return Place(address, module, self.env, self.depth, self.output)


@dataclass(frozen=True, slots=True)
class Step:
    """One possible result of a part: its closed text, its value and the names visible after it."""

    expr: Expr
    value: object
    scope: Scope


def shared(path: str) -> str:
    """`path` without the index of the innermost copy: where `same` and `tied` meet."""
    return re.sub(r"\[\d+\](?!.*\[)", "[=]", path)


def carried(origin: str, before: Scope, after: Scope) -> Scope:
    """What an argument's text has bound, under names that no text can write.

    Its names belong to the caller: they pass unseen through the rule (as through any body: not out
    of an alternative, as lists out of a repeat), and `handed_back` shows them again.
    """
    fresh = {n: v for n, v in after.items() if v is not before.get(n)}
    return {n if ">" in n else f"{origin}>{n}": v for n, v in fresh.items()}


def handed_back(origins: Sequence[str], before: Scope, after: Scope) -> Scope:
    """The caller's names after a call: its own, and those that its arguments have bound; where
    two bind the same one, the later parameter's."""
    fresh = {n: v for n, v in after.items() if ">" in n and v is not before.get(n)}
    found = {**before, **{n: v for n, v in fresh.items() if n.rpartition(">")[0] not in origins}}
    for origin in origins:
        for name, label in fresh.items():
            if name.rpartition(">")[0] == origin:
                found[name.rpartition(">")[2]] = label
    return found


def listed(before: Scope, steps: Sequence[Step]) -> Scope:
    """After copies: a name that each copy has bound is the list of its values."""
    found = dict(before)
    for name, label in steps[-1].scope.items():
        if label is not before.get(name):
            labels = [s.scope[name] for s in steps if name in s.scope]
            if all(isinstance(item, Label) for item in labels):
                found[name] = tuple(item for item in labels if isinstance(item, Label))
    return found
