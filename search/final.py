"""The final training: the winner on train and validation together, with several seeds, and the
test part read once a seed.

The mean and the sample deviation over the seeds are what a report may quote; the weights handed on
are those of the first seed, not of the best one, which would be choosing on the test part.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from einspace.compile import compile_text
from einspace.result import Result, TrialRecord
from grammar.errors import StudyError
from search.evaluate import Evaluator, Job
from search.records import search_record
from search.study import Ledger
from search.task import Task
from search.tasks import find as find_task

SEEDS = (0, 1, 2)
WEIGHTS = "weights.safetensors"
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Final:
    """What the final training gave; `weights` (of `seeds[0]`) lies in the study's folder."""

    trial: int
    text: str
    hash: str
    metric: str
    epochs: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float
    weights: str
    seconds: float


def finalise(
    ledger: Ledger,
    *,
    seeds: Sequence[int] = SEEDS,
    trial: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Final:
    """Trains the best trial (or number `trial`) for good and writes the outcome into the study.

    Raises: StudyError when no trial has finished, or a final training fails.
    """
    winner, task = _winner(ledger, trial), find_task(ledger.setup.task)
    folder = ledger.folder / "final"
    folder.mkdir(exist_ok=True)
    epochs = ledger.setup.epochs * task.budget.final_factor
    compiled = compile_text(winner.text, task.interface)
    jobs = [
        Job(
            source=compiled.source,
            eager=compiled.eager,
            seed=seed,
            epochs=epochs,
            lr=winner.params["lr"],
            weight_decay=winner.params["weight_decay"],
            threads=threads,
            wall_seconds=None,
            memory_bytes=task.budget.memory_bytes,
            split="final",
            weights=str((folder / WEIGHTS).resolve()) if seed == seeds[0] else "",
        )
        for seed in seeds
    ]
    results = _run_all(task, jobs, threads, device)
    final = _summary(winner, ledger, epochs, tuple(seeds), results)
    ledger.study.set_user_attr("nas.final", asdict(final))
    return final


def final_of(attributes: Mapping[str, object]) -> Final | None:
    """The `Final` that `SearchRecord.final` holds; None before the final training."""
    if not attributes:
        return None
    fields: dict[str, object] = dict(attributes)
    for name in ("seeds", "values"):
        value = fields[name]
        assert isinstance(value, Sequence)
        fields[name] = tuple(value)
    return Final(**fields)  # type: ignore[arg-type]  # written by `finalise` from the same fields


def weights_path(ledger: Ledger, final: Final) -> Path:
    """Where the weights of the winner lie."""
    return ledger.folder / final.weights


def _winner(ledger: Ledger, number: int | None) -> TrialRecord:
    record = search_record(ledger)
    if number is None:
        best = record.best()
    else:
        best = next((t for t in record.trials if t.number == number and t.status == "ok"), None)
    if best is None:
        which = "no trial" if number is None else f"trial {number} has not"
        raise StudyError(
            f"{which} finished with a value in study {record.study!r}",
            hint="run the search for more trials, or look at the errors with `einspace status`",
        )
    return best


def _run_all(task: Task, jobs: Sequence[Job], threads: int, device: str) -> list[Result]:
    """The results in the order of the jobs; `PROCESSES` at a time on the CPU, one on a GPU."""
    processes = min(PROCESSES if device == "cpu" else 1, len(jobs))
    shares = [range(i, len(jobs), processes) for i in range(processes)]

    def run(share: range) -> list[tuple[int, Result]]:
        # Entered in the thread that uses it: the process dies with the thread that started it.
        with Evaluator(task, threads=threads, device=device) as evaluator:
            return [(i, evaluator.run(jobs[i])) for i in share]

    with ThreadPoolExecutor(processes) as pool:
        found = dict(pair for part in pool.map(run, shares) for pair in part)
    return [found[i] for i in range(len(jobs))]


def _summary(
    winner: TrialRecord,
    ledger: Ledger,
    epochs: int,
    seeds: tuple[int, ...],
    results: Sequence[Result],
) -> Final:
    values = []
    for seed, result in zip(seeds, results, strict=True):
        if result.status != "ok" or result.value is None or not math.isfinite(result.value):
            raise StudyError(
                f"the final training of trial {winner.number} with seed {seed} ended as "
                f"{result.status}: {result.error}",
                hint="the search's trials are untouched; run it again, or finalise another trial",
            )
        values.append(result.value)
    return Final(
        trial=winner.number,
        text=winner.text,
        hash=winner.hash,
        metric=ledger.setup.objective,
        epochs=epochs,
        seeds=seeds,
        values=tuple(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        weights=f"final/{WEIGHTS}",
        seconds=sum(r.metrics.get("seconds", 0.0) for r in results),
    )
