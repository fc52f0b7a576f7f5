"""Kinship: which modules of a child are those of its parent, and which weights are kept for it.

The unit is the *segment* (`einspace/repeats.py`): the smallest run of nodes between two points
where a single value flows, so one op of a chain, or a whole residual branch. Two segments are the
same when their canonical forms are: ops, constructor arguments, types and the wiring inside. A
module is inherited together with its segment or not at all: a norm in front of a changed mixer has
learned for another reader, and starts afresh.

Segments are matched in order of position, each of the parent once: first from the front while they
are equal, then from the back, then what is left from front to back. A child with one late op
changed keeps everything else; one with a layer more keeps all layers of its parent.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

from einspace.compile import compile_text
from einspace.graph import Graph
from einspace.interface import Interface
from einspace.optable import table
from einspace.repeats import segments
from einspace.result import TrialRecord
from search.evaluate import Job

FOLDER = "weights"


@runtime_checkable
class Breeding(Protocol):
    """A strategy that makes children of a population."""

    def alive(self, table: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
        """The trials that may be parents of the next."""


def parent_of(origin: str) -> int | None:
    """The number of the trial that a child was made from; of two, the first."""
    found = re.match(r"(?:mutation|crossover) of #(\d+)", origin)
    return int(found[1]) if found else None


def weights_file(study: Path, number: int) -> Path:
    """Where the weights of a trial lie."""
    return study.resolve() / FOLDER / f"{number}.safetensors"


def heir(
    job: Job, study: Path, rows: Sequence[TrialRecord], child: TrialRecord, interface: Interface
) -> Job:
    """The job of `child`, that leaves its weights and takes its parent's, if it has one."""
    job = replace(job, bequest=str(weights_file(study, child.number)))
    number = parent_of(child.origin)
    if number is None:
        return job
    mine, other = (compile_text(t.text, interface).graph for t in (child, rows[number]))
    estate = str(weights_file(study, number))
    return replace(job, estate=estate, matched=tuple(pairs(mine, other)))


def prune(study: Path, strategy: Breeding, rows: Sequence[TrialRecord]) -> None:
    """Remove the weights of trials that are no parents any more, nor of a child still to train."""
    open_rows = [t for t in rows if t.status in ("running", "waiting")]
    kept = {t.number for t in (*strategy.alive(rows), *open_rows)}
    kept |= {number for t in open_rows if (number := parent_of(t.origin)) is not None}
    for path in (study / FOLDER).glob("*.safetensors"):
        if int(path.stem) not in kept:
            path.unlink(missing_ok=True)


def hashed(graph: Graph) -> list[tuple[str, list[int]]]:
    """(canonical hash, numbers of the modules that are first used in it) of each segment."""
    number: dict[str, int] = {}
    found = []
    for segment in segments(graph):
        fresh = []
        for node in segment.nodes:
            op = table().get(node.op)
            if op is not None and op.inline is None and node.module not in number:
                fresh.append(number.setdefault(node.module, len(number)))
        found.append((sha256(repr(segment.key).encode()).hexdigest(), fresh))
    return found


def pairs(child: Graph, parent: Graph) -> list[tuple[int, int]]:
    """Which module of the child is which of the parent."""
    ours, theirs = hashed(child), hashed(parent)
    found: list[tuple[int, int]] = []
    for mine, other in _matched([h for h, _ in ours], [h for h, _ in theirs]):
        # A shared module counts where it is first used, which may be elsewhere in the parent.
        if len(ours[mine][1]) == len(theirs[other][1]):
            found += zip(ours[mine][1], theirs[other][1], strict=True)
    return sorted(found)


def _matched(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[int, int]]:
    shorter = min(len(ours), len(theirs))
    front = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    back = next((i for i in range(shorter - front) if ours[-1 - i] != theirs[-1 - i]), None)
    back = shorter - front if back is None else back
    yield from ((i, i) for i in range(front))
    left = list(range(front, len(theirs) - back))
    for i in range(front, len(ours) - back):
        other = next((j for j in left if theirs[j] == ours[i]), None)
        if other is not None:
            left.remove(other)
            yield i, other
    yield from ((len(ours) - i, len(theirs) - i) for i in range(back, 0, -1))
