"""The sums that a frame draws from, built once: exact where they fit in memory, else an estimate.

exact       all valid derivations within budget, up to `CAP` steps of the sums
relaxed     without recursion: exact without the budget of params, FLOPs and memory; draws over
            budget are dropped, which leaves exact draws, and an estimated normaliser
sequential  beyond: choice by choice with the size fixed before (`grammar/sequential.py`)
"""

import random
from typing import Literal, TypeAlias

from einspace.blur import Blurred, blur
from einspace.frame import Frame
from einspace.space_facts import exact_of, facts_of, layered_of
from grammar.errors import SpaceError
from grammar.estimate import Estimate, Proposer, Relaxed, Walked
from grammar.exact import Exact
from grammar.exact_ops import TooLarge
from grammar.learn import Sites, Table, sites, weighted
from grammar.sequential import Sequential
from grammar.taught import POOL, Summed, Taught, Weighed, marked, proposals, weighed
from grammar.walk import Limits

CAP = 150_000
PILOT = 100  # proposals that decide whether the sequential way is passable: one in twenty is
DRAWN_NODES = 100  # the most nodes drawn from a recursive space, unless a budget is given

Sums: TypeAlias = Exact | Estimate


def sums_of(frame: Frame) -> Sums:
    """The sums of a frame; the first call builds them. Raises: SpaceError when nothing fits."""
    held = frame.held.sums
    if not isinstance(held, Exact | Estimate):
        held = frame.held.sums = _build(frame)
    return held


def conditioned(frame: Frame, log_prob: float) -> tuple[float, Literal["exact", "estimate"]]:
    """A derivation's log-probability in the conditioned distribution, from that of the grammar."""
    sums = sums_of(frame)
    return log_prob - sums.log_mass(), sums.kind


def drawn_limits(frame: Frame) -> Limits:
    """The limits of the frame, with a budget of nodes where recursion needs one."""
    limits = frame.limits
    if frame.checked.radius == 0 or limits.nodes < Limits().nodes:
        return limits
    return Limits(DRAWN_NODES, limits.params, limits.flops, memory=limits.memory)


def sites_of(frame: Frame) -> Sites:
    """The places of a frame's weights; the first call finds them."""
    held = frame.held.sites
    if not isinstance(held, Sites):
        held = frame.held.sites = sites(frame.space, frame.typing.signatures)
    return held


def taught(frame: Frame, table: Table) -> Taught:
    """Draws from a frame's space under other weights (of `sites_of`), within its budget: exact or
    sequential like those of its own weights, and from what these have built.

    Raises: SpaceError when nothing fits.
    """
    sums, limits, places = sums_of(frame), drawn_limits(frame), sites_of(frame)
    if isinstance(sums, Estimate):
        if isinstance(sums.proposer, Sequential):
            return weighed(sums.proposer, places, table)
        if isinstance(sums.proposer, Walked):
            walked = Walked(weighted(places, table), frame.typing, limits)
            return Weighed(walked, proposals(walked, random.Random(0), POOL), POOL)
    relaxed = isinstance(sums, Estimate)
    held = frame.held.forest
    if not isinstance(held, Exact):
        inner = Limits(limits.nodes) if relaxed else limits
        held = frame.held.forest = marked(places, facts_of(frame), inner, layered_of(frame))
    return Summed(held, table, frame.typing, limits if relaxed else None)


def _build(frame: Frame) -> Sums:
    limits = drawn_limits(frame)
    try:
        return exact_of(frame, limits, CAP)
    except TooLarge:
        pass
    if frame.checked.radius == 0:
        try:
            whole = exact_of(frame, Limits(limits.nodes), CAP)
        except TooLarge:
            pass
        else:
            return Estimate(frame.space, limits, Relaxed(whole, frame.typing, limits))
    return Estimate(frame.space, limits, _proposer(frame, limits))


def _proposer(frame: Frame, limits: Limits) -> Proposer:
    typing = frame.typing
    walked = Walked(frame.space, typing, limits)
    blurred = Blurred(typing.table, typing.interface, exports=False)
    try:
        found = Sequential(
            sites_of(frame).space,
            facts_of(frame),
            limits,
            layered=layered_of(frame),
            blurred=blurred,
            blur=blur(blurred),
        )
    except SpaceError:  # The blurred sums are too long, or blurred types fit nowhere.
        return walked
    rng = random.Random(0)
    alive = sum(found.propose(rng) is not None for _ in range(PILOT))
    return found if alive * 20 >= PILOT else walked
