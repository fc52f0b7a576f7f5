"""Mutation and crossover: choosers that replay a trace and differ from it below one address."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grammar.walk import Replay, Sample


def below(address: str, root: str) -> bool:
    """Whether a choice lies in the subtree of the choice at `root`."""
    return address == root or address.startswith((root + "/", root + "[", root + ":"))


@dataclass(slots=True)
class Mutation:
    """Replays `trace`, but draws afresh at and below `root`, where the old option comes last."""

    trace: Mapping[str, int]
    root: str
    rng: random.Random
    _replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        kept = {a: i for a, i in self.trace.items() if not below(a, self.root)}
        self._replay = Replay(kept, Sample(self.rng))

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        old = self.trace.get(address)
        if address == self.root and old in options and len(options) > 1:
            rest = [(o, w) for o, w in zip(options, weights, strict=True) if o != old]
            return self.rng.choices([o for o, _ in rest], [w for _, w in rest])[0]
        return self._replay.pick(address, options, weights)


def mutation_chooser(trace: Mapping[str, int], rng: random.Random) -> Mutation:
    """A mutation at an address drawn uniformly from the trace."""
    addresses = sorted(trace)
    root = rng.choice(addresses) if addresses else ""
    return Mutation(trace, root, rng)


def crossover_chooser(
    first: Mapping[str, int], second: Mapping[str, int], rng: random.Random
) -> Replay:
    """`first`, with the subtree below a common address taken from `second`."""
    common = sorted(a for a in first if a in second)
    differing = [a for a in common if _part(first, a) != _part(second, a)] or common
    if not differing:
        return Replay(first, Sample(rng))
    root = rng.choice(differing)
    child = {a: i for a, i in first.items() if not below(a, root)}
    child.update(_part(second, root))
    return Replay(child, Sample(rng))


def _part(trace: Mapping[str, int], root: str) -> dict[str, int]:
    return {a: i for a, i in trace.items() if below(a, root)}
