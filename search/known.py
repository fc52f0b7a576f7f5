"""Architectures known by their text alone, such as seeds: how a space derives them."""

from einspace.candidates import Candidate, Frame, candidate_of
from einspace.compile import Closed
from einspace.membership import trace_of
from einspace.places import Places
from einspace.types import Outputs
from grammar.derive import derive
from grammar.errors import SpaceError
from grammar.learn import Forest, Sites, forest
from grammar.parse import parse
from grammar.pcfg import check_space
from grammar.walk import Limits


def forest_of(frame: Frame, place: Sites, text: str) -> Forest:
    """All derivations of an architecture.

    Raises: SpaceError where the space has none, or is recursive.
    """
    places, limits = _places(frame, text)
    return forest(place, places, limits, spent=True)


def seed_of(frame: Frame, text: str) -> Candidate:
    """A seed, with its trace where the space derives it: then it can have children.

    Raises: SpaceError for a text that does not fit the task.
    """
    interface = frame.typing.interface
    found = candidate_of(text, interface)
    try:
        trace = trace_of(frame, text)
    except SpaceError:  # Not of this space: it is tried, but nothing descends from it.
        return found
    costs = found.params, found.flops, found.nodes
    return Candidate(found.text, found.hash, trace, found.log_prob, *costs)


def _places(frame: Frame, text: str) -> tuple[Places, Limits]:
    """The architecture as an algebra, and the limits that hold exactly its derivations."""
    signatures, inputs = frame.typing.signatures, tuple(frame.typing.interface.inputs)
    if check_space(frame.space, signatures, inputs).radius > 0:
        raise SpaceError("the derivations of a text are not looked for in a recursive space")
    closed, _ = derive(parse(text, "<architecture>"), Closed(), frame.typing, Limits())
    assert isinstance(closed.value, Outputs)
    places = Places(frame.typing, closed.value)
    return places, Limits(frame.limits.nodes, places.modules, places.size)
