r"""Strategies compared at equal budgets on tabulated spaces.

    python -m benchmarks.search.compare --jobs 2 --trials 150 --seeds 20
    python -m benchmarks.search.compare_plots

The code that searches is the code that runs here; a training is a look into the table (mean of the
seeds, highest epoch, nothing pruned). A trial is one architecture not looked up before: as in a
search, a known one is proposed anew, 20 times at most. Runs are appended to `--out` as they end, so
a stopped comparison goes on where it was.

    random           uniform over the table
    tpe              Optuna's stock TPE, one categorical a choice named by address and options;
                     what it proposes again is told again at no charge, 20 times at most
    warm             bayes_evolution whose first trial is the setting's hand-written architecture
    others           `search.strategies.find`
"""

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from benchmarks.search.settings import settings
from benchmarks.search.tabular import RESULTS, Table, read
from einspace.candidates import Candidate, Frame, candidate_of, draw, frame
from einspace.membership import probability
from einspace.result import TrialRecord
from search.strategies import Strategy, find

STRATEGIES = (
    "random", "tpe", "prior", "evolution", "cem", "bayes", "bayes_evolution", "warm",
)  # fmt: skip
REDRAWS = 20
RECALLER = (
    "embed(dim=32) >> residual(rms_norm >> softmax_attn(heads=2, causal, pos=rope)) >> "
    "residual(rms_norm >> swiglu(mult=2)) >> residual(rms_norm >> softmax_attn(heads=2, causal, "
    "pos=rope)) >> residual(rms_norm >> swiglu(mult=2)) >> rms_norm >> head"
)
WARM = {
    "digits": "patch(dim=32, size=2) >> pos_enc(kind=learned) >> residual(rms_norm >> "
    "softmax_attn(heads=2)) >> residual(rms_norm >> mlp(mult=2, act=relu)) >> residual(rms_norm >> "
    "softmax_attn(heads=2)) >> residual(rms_norm >> mlp(mult=2, act=relu)) >> head",
    "mnist5k": "conv2d(dim=16, kernel=3, stride=2) >> relu >> max_pool2d >> conv2d(dim=16, "
    "kernel=3) >> relu >> conv2d(dim=16, kernel=3) >> relu >> head",
    "vowels": "linear(dim=32) >> residual(rms_norm >> gru) >> residual(rms_norm >> gru) >> "
    "pool(kind=mean) >> head",
    "mqar": RECALLER,
    "mad_recall": RECALLER,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One search: the value of each trial in order, None where the training failed."""

    task: str
    strategy: str
    seed: int
    values: tuple[float | None, ...]
    seconds: float


class Suggest:
    """A chooser that asks an Optuna trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        # The options belong to the name: Optuna wants them to be the same under one name.
        name = f"{address}|{','.join(map(str, options))}"
        return int(self.trial.suggest_categorical(name, list(options)))


def value_of(table: Table, id_: str) -> float | None:
    """What the table says of an architecture; one that was never trained has failed."""
    entry = table.entries.get(id_)
    return None if entry is None else entry.value()


def _random(table: Table, seed: int, trials: int) -> list[float | None]:
    ids = sorted(table.entries)
    drawn = random.Random(seed).sample(ids, min(trials, len(ids)))
    return [value_of(table, id_) for id_ in drawn]


def _tpe(place: Frame, table: Table, seed: int, trials: int) -> list[float | None]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction=table.about["direction"], sampler=sampler)
    known: set[str] = set()
    values: list[float | None] = []
    for _ in range(trials):
        for _ in range(REDRAWS + 1):
            trial = study.ask()
            found = draw(place, Suggest(trial))
            value = value_of(table, found.hash)
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
            if found.hash not in known:
                break
        known.add(found.hash)
        values.append(value)
    return values


def searched(
    place: Frame,
    table: Table,
    strategy: Strategy,
    seed: int,
    trials: int,
    first: Candidate | None = None,
    notes: Callable[[Candidate], Mapping[str, float]] = lambda found: {},
) -> list[TrialRecord]:
    """The trials of a strategy; `first` is tried first, `notes` become the metrics of a trial."""
    rows: list[TrialRecord] = []
    known: set[str] = set()
    for number in range(trials):
        found = first if number == 0 else None
        for redraw in range(REDRAWS + 1):
            if found is not None and found.hash not in known:
                break
            found, _ = strategy.propose(
                place,
                tuple(rows),
                maximize=table.about["direction"] == "maximize",
                seed=seed,
                number=number,
                redraw=redraw,
            )
        assert found is not None
        known.add(found.hash)
        value = value_of(table, found.hash)
        status = "ok" if value is not None else "nan"
        row = TrialRecord(number, status, found.text, found.hash, value, trace=found.trace)
        rows.append(replace(row, metrics=notes(found)))
    return rows


def seed_of(place: Frame, text: str) -> Candidate:
    """The hand-written architecture as a member of the space, with its trace."""
    found = candidate_of(text, place.typing.interface)
    return replace(found, trace=probability(place, text).trace)


def search(job: tuple[str, str, int, int, Path]) -> Run:
    """One whole search on a table."""
    task, strategy, seed, trials, results = job
    setting, table, start = settings()[task], read(task, results), time.process_time()
    place = frame(str(setting.space), setting.task.interface)
    if strategy == "random":
        values = _random(table, seed, trials)
    elif strategy == "tpe":
        values = _tpe(place, table, seed, trials)
    else:
        warm = strategy == "warm"
        first = seed_of(place, WARM[task]) if warm else None
        name = "bayes_evolution" if warm else strategy
        values = [r.value for r in searched(place, table, find(name), seed, trials, first)]
    return Run(task, strategy, seed, tuple(values), round(time.process_time() - start, 2))


def finished(out: Path, trials: int) -> dict[tuple[str, str, int], Run]:
    """The runs of this length in the file; a torn line is no run."""
    found: dict[tuple[str, str, int], Run] = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if len(row["values"]) == trials:
            run = Run(**{**row, "values": tuple(row["values"])})
            found[run.task, run.strategy, run.seed] = run
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(WARM))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("build/compare.jsonl"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(args.out, args.trials)
    jobs = [
        (task, strategy, seed, args.trials, args.results)
        for seed in range(args.seeds)
        for task in args.tasks.split(",")
        for strategy in args.strategies.split(",")
        if (task, strategy, seed) not in done
    ]
    print(f"{len(done)} runs are there, {len(jobs)} to do", flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.jobs) as pool, args.out.open("a", encoding="utf-8") as file:
        if args.out.stat().st_size:
            file.write("\n")  # After a torn line; an empty one is skipped.
        for n, run in enumerate(pool.imap_unordered(search, jobs), 1):
            row = {k: getattr(run, k) for k in ("task", "strategy", "seed", "values", "seconds")}
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"{n}/{len(jobs)} {run.task} {run.strategy} {run.seed} {run.seconds} s", flush=True
            )


if __name__ == "__main__":
    main()
