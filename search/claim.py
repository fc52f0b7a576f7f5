"""Takes the next trial of a study: a given-back one, a seed, or a new proposal.

One worker at a time holds the claim lock, so `--trials` is never overshot and no architecture is
taken twice. A trial enters the study together with its text and lease (`enqueue_trial`), so there
is no instant in which a running trial belongs to nobody.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from optuna.trial import FrozenTrial, Trial, TrialState

from einspace.candidates import Candidate, Frame
from einspace.interface import Interface
from einspace.result import TrialRecord
from search.known import seed_of
from search.lease import own_lease, reap
from search.storage import locked
from search.strategies import Strategy
from search.study import Ledger

REDRAWS = 20
RETRIES = 2
_KEPT = ("nas.text", "nas.hash", "nas.trace", "nas.origin", "nas.size")


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is no trial to take, and why."""

    reason: Literal["done", "exhausted"]
    message: str


def claim(
    ledger: Ledger, frame: Frame, interface: Interface, strategy: Strategy, trials: int
) -> Trial | Nothing:
    """The next trial, running and leased to this process.

    Raises: SpaceError where the space holds nothing for this task.
    """
    with locked(ledger.folder / "claim.lock"):
        reap(ledger)
        rows = ledger.trials()
        if not any(t.state is TrialState.WAITING for t in rows):
            if len(rows) >= trials:
                return Nothing("done", f"{len(rows)} of {trials} trials are in the study")
            found = _next(ledger, frame, interface, strategy, rows)
            if isinstance(found, Nothing):
                return found
            params, attrs = found
            ledger.study.enqueue_trial(dict(params), user_attrs={**attrs, **_lease()})
        trial = ledger.study.ask()
        if trial.user_attrs.get("nas.lease", {}).get("pid") != os.getpid():
            for key, value in _lease().items():  # Enqueued by a worker that died just after.
                trial.set_user_attr(key, value)
        return trial


def _lease() -> dict[str, object]:
    return {"nas.lease": asdict(own_lease())}


def _next(
    ledger: Ledger,
    frame: Frame,
    interface: Interface,
    strategy: Strategy,
    rows: Sequence[FrozenTrial],
) -> tuple[Mapping[str, object], dict[str, object]] | Nothing:
    """Parameters and attributes of the next trial."""
    if (old := orphan(rows)) is not None:
        attrs = {k: old.user_attrs[k] for k in _KEPT if k in old.user_attrs}
        attempt = _attempt(old) + (old.user_attrs["nas.reaped"] == "died")
        return old.params, {**attrs, "nas.retry_of": old.number, "nas.attempt": attempt}
    tried = {t.user_attrs.get("nas.origin") for t in rows}
    for name, text in ledger.setup.seeds:
        if f"seed:{name}" not in tried:
            return {}, _attrs(seed_of(frame, text), f"seed:{name}")
    return _propose(ledger, frame, strategy)


def orphan(rows: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The first given-back trial not yet taken up; it may kill `RETRIES` workers and no more."""
    taken = {t.user_attrs.get("nas.retry_of") for t in rows}
    for trial in rows:
        reaped = trial.user_attrs.get("nas.reaped")
        if trial.state is not TrialState.FAIL or not reaped or trial.number in taken:
            continue
        if "nas.text" in trial.user_attrs and _attempt(trial) + (reaped == "died") <= RETRIES:
            return trial
    return None


def _attempt(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("nas.attempt", 0))


def _propose(
    ledger: Ledger, frame: Frame, strategy: Strategy
) -> tuple[Mapping[str, object], dict[str, object]] | Nothing:
    table: tuple[TrialRecord, ...] = ledger.table()
    known = {t.hash for t in table}
    for redraw in range(REDRAWS + 1):
        candidate, origin = strategy.propose(
            frame,
            table,
            maximize=ledger.setup.direction == "maximize",
            seed=ledger.setup.seed,
            number=len(table),
            redraw=redraw,
        )
        if candidate.hash not in known:
            return {}, _attrs(candidate, origin)
    return Nothing(
        "exhausted",
        f"the space is exhausted: {REDRAWS} redraws gave only architectures that were tried "
        f"({len(known)} different ones in {len(table)} trials)",
    )


def _attrs(candidate: Candidate, origin: str) -> dict[str, object]:
    size = {"params": candidate.params, "flops": candidate.flops, "nodes": candidate.nodes}
    return {
        "nas.text": candidate.text,
        "nas.hash": candidate.hash,
        "nas.trace": json.dumps(dict(candidate.trace), separators=(",", ":")),
        "nas.origin": origin,
        "nas.size": size,
    }
