"""The expectation matrix: does a derivation end, and how big does it grow?

E[a, b] is the expected number of uses of rule b in one use of rule a; rules that do not use
themselves are substituted first, so that the figure is per use of a recursive rule. A spectral
radius below 1 means finite expected derivations (Booth & Thompson 1973). The *materialised* radius
counts every copy that `same` and `tied` share (Ericsson et al. 2024, arXiv:2405.20838).
"""

from collections.abc import Mapping

import numpy as np

from grammar.ast import (
    Arg,
    Call,
    Choice,
    Decl,
    Expr,
    Name,
    Node,
    Number,
    Range,
    Repeat,
    Seq,
    children,
)
from grammar.weights import weights

SHARED = ("same", "tied")


def radii(
    rules: Mapping[str, Decl], lets: Mapping[str, Expr], start: Expr
) -> tuple[float, float, str]:
    """Derivation radius, materialised radius, and the rule that weighs most in the first."""
    plain, guilty = _radius(rules, lets, copies=False)
    materialised, _ = _radius(rules, lets, copies=True)
    return plain, materialised, guilty


def _radius(
    rules: Mapping[str, Decl], lets: Mapping[str, Expr], *, copies: bool
) -> tuple[float, str]:
    names = list(rules)
    matrix = np.zeros((len(names), len(names)))
    for i, name in enumerate(names):
        uses: dict[str, float] = {}
        _Uses(lets, copies, uses).add(rules[name].body, 1.0)
        matrix[i] = [uses.get(other, 0.0) for other in names]
    kept = list(range(len(names)))
    for i in range(len(names)):
        if matrix[i, i] == 0:
            column = matrix[:, i].copy()
            matrix += np.outer(column, matrix[i])
            matrix[:, i] = 0
            kept.remove(i)
    if not kept:
        return 0.0, ""
    values, vectors = np.linalg.eig(matrix[np.ix_(kept, kept)])
    top = int(np.argmax(np.abs(values)))
    return float(np.abs(values[top])), names[kept[int(np.argmax(np.abs(vectors[:, top])))]]


class _Uses:
    """Expected uses of names below a node; `width` is the expected length of the tuple at hand."""

    def __init__(self, lets: Mapping[str, Expr], copies: bool, found: dict[str, float]) -> None:
        self.lets, self.copies, self.found = lets, copies, found

    def add(self, node: Node, factor: float, width: float = 1.0) -> None:
        match node:
            case Choice(alts):
                for alt, share in zip(alts, weights(node, self.lets), strict=True):
                    self.add(alt.body, factor * share, width)
                return
            case Seq(items):
                for item in items:
                    self.add(item, factor, width)
                    width = self.width(item)
                return
            case Repeat(body, count):
                self.add(body, factor * self.times(body, self.mean(count)))
                return
            case Call("each", (Arg() as arg,)):
                self.add(arg.value, factor * self.times(arg.value, width))
                return
            case Name(name) | Call(name, _):
                self.found[name] = self.found.get(name, 0.0) + factor
        for child in children(node):
            self.add(child, factor)

    def times(self, body: Node, copies: float) -> float:
        shared = isinstance(body, Call) and body.name in SHARED
        return 1.0 if shared and not self.copies else copies

    def width(self, node: Node) -> float:
        """The expected number of values that a part makes."""
        match node:
            case Choice(alts):
                shares = weights(node, self.lets)
                return sum(s * self.width(a.body) for s, a in zip(shares, alts, strict=True))
            case Call("fork", args):
                return float(len(args))
            case Call(_, args):
                for arg in args:
                    if arg.name in ("copies", "parts"):
                        return self.mean(arg.value)
        return 1.0

    def mean(self, count: Expr) -> float:
        """The expected value of a count."""
        match count:
            case Number(value):
                return float(value)
            case Range(low, high):
                return (low + high) / 2
            case Choice(alts):
                shares = weights(count, self.lets)
                return sum(s * self.mean(a.body) for s, a in zip(shares, alts, strict=True))
            case Name(name) if name in self.lets:
                return self.mean(self.lets[name])
        return 1.0
