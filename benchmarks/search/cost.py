"""What a trial costs beside its training: one proposal, and Optuna's part, on long tables.

    python -m benchmarks.search.cost [--sizes 100,1000,5000] [--out cost.md]

Tables are real draws of the shipped spaces `vision` and `lm`, with their traces and synthetic
values; a tenth is pruned, a twentieth failed. All times are CPU milliseconds of this process
(`time.process_time`), one thread.

A proposal is measured as a worker sees it: every proposal joins the table and the next one sees it.
`first` is the first proposal of a fresh process (sums of the space, features of the known trials),
`next` the median of those after it, `most` the largest of those. A goal is met where `next` is
below it at every length; the worst `most` stands beside it. The lengths are reached half-way, so a
surrogate that is fitted at round numbers is. There are two objectives, the value and the parameters
(`pareto` reads both).

Optuna's part is measured on a journal study that holds the table: what a claim reads (`reap`, the
trials, the records), then ask with both suggestions, one report and question of the pruner, tell.
"""

import argparse
import gc
import hashlib
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy
import optuna
import sklearn
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from einspace.candidates import Frame, frame, sample
from einspace.library import resolve
from einspace.result import Status, TrialRecord
from search import study as studies
from search.lease import reap
from search.records import trial_record
from search.strategies import NAMES, find
from search.study import LEARNING_RATE, WEIGHT_DECAY, Ledger
from search.tasks import find as find_task

SPACES = ("vision", "lm")
GOALS = {"bayes": 500.0, "bayes_evolution": 500.0}
GOAL = 20.0
OPTUNA_GOAL = 100.0
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds: of the first call, the median of the later ones, the largest of them."""

    first: float
    next: float
    most: float


def cost_of(spent: Sequence[float]) -> Cost:
    """What calls cost, in their order."""
    return Cost(spent[0], statistics.median(spent[1:]), max(spent[1:]))


def worth(text: str, params: int) -> float:
    """A value between 0 and 1 that follows size and text."""
    noise = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    return 1 / (1 + math.exp(1.5 - 0.1 * math.log(1 + params) - 0.3 * noise))


def records(place: Frame, count: int) -> list[TrialRecord]:
    """A table of this length."""
    rng, rows = random.Random(0), []
    for number in range(count):
        drawn = sample(place, rng)
        status: Status = "oom" if number % 20 == 19 else "pruned" if number % 10 == 4 else "ok"
        value = None if status == "oom" else worth(drawn.text, drawn.params)
        epochs = 0 if value is None else 1 if status == "pruned" else 3
        curve = (
            ()
            if value is None
            else tuple(value * (0.9 + 0.1 * e / epochs) for e in range(1, epochs + 1))
        )
        rows.append(
            TrialRecord(
                number,
                status,
                drawn.text,
                drawn.hash,
                value,
                params={"lr": rng.uniform(*LEARNING_RATE), "weight_decay": 1e-3},
                metrics={"params": float(drawn.params)},
                curves={"val_acc": curve} if curve else {},
                trace=drawn.trace,
                origin="prior",
                values=() if value is None else (value, float(drawn.params)),
            )
        )
    return rows


def proposal(name: str, place: Frame, table: Sequence[TrialRecord], rounds: int) -> Cost:
    """What `rounds` proposals of a strategy cost that has just been made."""
    strategy, rows, spent = find(name), list(table[: -(rounds // 2)]), []
    gc.freeze()  # as a worker does before its first trial
    for _ in range(rounds):
        number, known = len(rows), tuple(rows)
        start = time.process_time()
        found, origin = strategy.propose(
            place, known, maximize=True, seed=0, number=number, redraw=0
        )
        spent.append(1e3 * (time.process_time() - start))
        value = worth(found.text, found.params)
        row = TrialRecord(
            number, "ok", found.text, found.hash, value, trace=found.trace, origin=origin,
            values=(value, float(found.params)),
        )  # fmt: skip
        rows.append(row)
    return cost_of(spent)


def filled(table: Sequence[TrialRecord], space: str, task: str) -> Ledger:
    """A journal study in the runs folder that holds the table, as a worker would open it."""
    setup = studies.Setup(
        name="cost", space=space, space_text=resolve(space)[0].text, task=task, objective="acc",
        direction="maximize", epochs=9,
    )  # fmt: skip
    ledger = studies.create(setup, {})
    begun = datetime(2026, 1, 1)  # Optuna keeps naive times.
    bounds: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(*LEARNING_RATE, log=True),
        "weight_decay": FloatDistribution(*WEIGHT_DECAY, log=True),
    }
    for row in table:
        points = next(iter(row.curves.values()), ())
        trial = create_trial(
            state={"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(
                row.status, TrialState.FAIL
            ),
            value=row.value if row.status == "ok" else None,
            params=dict(row.params),
            distributions=bounds,
            intermediate_values=dict(enumerate(points, 1)),
            user_attrs={
                "nas.status": row.status,
                "nas.text": row.text,
                "nas.hash": row.hash,
                "nas.trace": json.dumps(dict(row.trace), separators=(",", ":")),
                "nas.origin": row.origin,
                "nas.metrics": dict(row.metrics),
                "nas.curves": {k: list(v) for k, v in row.curves.items()},
            },
        )
        trial.datetime_start, trial.datetime_complete = begun, begun + timedelta(seconds=9)
        ledger.study.add_trial(trial)
    return studies.open_ledger("cost")


def bookkeeping(ledger: Ledger, rounds: int) -> dict[str, Cost]:
    """What Optuna and the reading of records cost around one trial, by step."""
    spent: dict[str, list[float]] = {}

    def timed(step: str, call: Callable[[], object]) -> None:
        start = time.process_time()
        call()
        spent.setdefault(step, []).append(1e3 * (time.process_time() - start))

    for _ in range(rounds):
        timed("reap", lambda: reap(ledger))
        timed("trials", ledger.trials)
        timed("table", ledger.table)
        ledger.study.enqueue_trial({}, user_attrs={"nas.text": "x"})
        begun = time.process_time()
        trial = ledger.study.ask()
        rate = trial.suggest_float("lr", *LEARNING_RATE, log=True)
        trial.suggest_float("weight_decay", *WEIGHT_DECAY, log=True)
        asked = time.process_time()
        trial.report(0.5 + rate, 1)
        trial.should_prune()
        pruned = time.process_time()
        ledger.study.tell(trial, 0.5 + rate)
        told = time.process_time()
        spent.setdefault("ask + tell", []).append(1e3 * (asked - begun + told - pruned))
        spent.setdefault("report + should_prune", []).append(1e3 * (pruned - asked))
    return {step: cost_of(all_) for step, all_ in spent.items()}


def _row(name: str, costs: Sequence[Cost], goal: float | None) -> str:
    cells = [f"{c.first:,.0f} / {c.next:,.1f} / {c.most:,.1f}" for c in costs]
    met = goal is None or max(c.next for c in costs) < goal
    most = max(c.most for c in costs)
    mark = "" if goal is None else f"{goal:g}: {'met' if met else 'MISSED'}, most {most:,.0f}"
    return f"| {' | '.join((name, *cells, mark))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,1000,5000")
    parser.add_argument("--spaces", default=",".join(SPACES))
    parser.add_argument("--strategies", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sizes = [int(n) for n in args.sizes.split(",")]
    lines = []
    for space in args.spaces.split(","):
        source, task = resolve(space)
        assert task is not None
        interface = find_task(task).interface
        table = records(frame(source.text, interface), max(sizes))
        head = " | ".join(f"{n:,} trials" for n in sizes)
        lines += [
            f"## `{space}` on {task}: CPU ms, first / next / most",
            "",
            f"| | {head} | goal |",
        ]
        lines.append(f"|---|{'---|' * (len(sizes) + 1)}")
        for name in filter(None, args.strategies.split(",")):
            costs = [
                proposal(name, frame(source.text, interface), table[:n], args.rounds) for n in sizes
            ]
            lines.append(_row(f"`{name}`", costs, GOALS.get(name, GOAL)))
            print(lines[-1], flush=True)
        steps = [_study(table[:n], space, task, args.rounds) for n in sizes]
        for step in steps[0]:
            goal = OPTUNA_GOAL if step == "ask + tell" else None
            lines.append(_row(step, [found[step] for found in steps], goal))
            print(lines[-1], flush=True)
        lines.append("")
    text = _page(lines)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


def _study(table: Sequence[TrialRecord], space: str, task: str, rounds: int) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EINSPACE_RUNS"] = folder
        ledger = filled(table, space, task)
        assert trial_record(ledger.trials()[-1]).trace == table[-1].trace
        return bookkeeping(ledger, rounds)


def _page(lines: Sequence[str]) -> str:
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (optuna, sklearn, numpy))
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {versions}; "
        "`python -m benchmarks.search.cost`."
    )
    return "\n".join(["# What a trial costs beside its training", "", about, "", *lines])


if __name__ == "__main__":
    main()
