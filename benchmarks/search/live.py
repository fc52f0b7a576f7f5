r"""The live confirmation: our best strategy against plain evolution, real trainings, open spaces.

Prepare the folder that is carried, here (needs the data packages and pip):

    python -m benchmarks.search.live prepare --kit build/live-kit --python 3.12

Search, on a machine with 16 cores; again to go on where it stopped:

    python -u -m benchmarks.search.live run --kit build/live-kit --runs build/live \
        --jobs 16 --minutes 9 --out build/live.json

The page, here (matplotlib):

    python -m benchmarks.search.live_page --results benchmarks/results/search/live.json

Two tasks, each with the shipped space that is made for it, two strategies, three seeds: twelve
searches of 60 trials, each one process tree of one thread, run by `search.launch` as the command
line runs it. Nothing is pruned, so that every trial costs its full training and counts the same.
The seed is that of proposals, of the sampler of lr and weight decay, and of every training in the
search. When a search is full, its winner is trained again with `FRESH` other seeds.

There the run needs torch, numpy, scipy, scikit-learn, psutil and networkx; `WHEELS` are carried in
the kit and unpacked where optuna is missing. No network, no MLflow, no data package.
"""

import argparse
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.study import Ledger
    from search.task import Data

KIT, RUNS = "LIVE_KIT", "EINSPACE_RUNS"
TASKS = Path(__file__).parent / "live_tasks"
SPACES = {"images": "vision", "leaves": "einspace-1d"}
STRATEGIES = ("evolution", "bayes_evolution")
SEEDS = (0, 1, 2)
FRESH = (1000, 1001, 1002)
WHEELS = (
    "alembic", "colorlog", "lark", "Mako", "MarkupSafe", "optuna", "packaging",
    "safetensors", "SQLAlchemy", "tqdm", "typing_extensions",
)  # fmt: skip
EVERY = 10.0  # seconds between lines of progress
RESERVE = 20.0  # seconds before the end from which no trial starts
Line = list[object]


@dataclass(frozen=True, slots=True)
class Search:
    """One of the twelve."""

    task: str
    strategy: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its study."""
        return f"{self.task}-{self.strategy}-{self.seed}"


def searches(strategies: Sequence[str] = STRATEGIES) -> list[Search]:
    """All of them, so that a run cut short has as many of each."""
    return [Search(t, name, seed) for seed in SEEDS for t in SPACES for name in strategies]


def named(name: str) -> Search:
    """The search whose study has this name."""
    task, strategy, seed = name.split("-")
    return Search(task, strategy, int(seed))


def carried(name: str) -> Callable[[int], "Data"]:
    """Reads the rows of a task out of the kit; the seed changes nothing."""
    return functools.partial(_read, name)


def _read(name: str, seed: int) -> "Data":
    from benchmarks.search.plan import read_data

    return read_data(name, Path(os.environ[KIT]))


def prepare(kit: Path, python: str) -> None:
    """Write data, wheels for Linux with this Python, and the commit."""
    from benchmarks.search.plan import write_data
    from benchmarks.search.settings import settings, widened
    from search.launch import commit
    from search.tasks import find

    kit.mkdir(parents=True, exist_ok=True)
    write_data("images", widened(500)(settings()["mnist5k"].load()), kit)
    write_data("leaves", widened(180)(find("osuleaf").load(0)), kit)
    (kit / "about.json").write_text(json.dumps({"commit": commit()}), encoding="utf-8")
    pins = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [p for p in pins if p.partition("==")[0] in WHEELS]
    assert len(wanted) == len(WHEELS)
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    for glibc in ("2014_x86_64", "_2_28_x86_64"):
        target += ["--platform", f"manylinux{glibc}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    subprocess.run([*pip, str(kit / "wheels"), *target, *wanted], check=True)
    size = sum(f.stat().st_size for f in kit.rglob("*") if f.is_file())
    print(f"{kit}: {size / 1e6:.1f} MB; {' '.join(wanted)}", flush=True)


def run(
    wanted: Sequence[Search], kit: Path, runs: Path, jobs: int, minutes: float, trials: int
) -> None:
    """Start or resume searches, `jobs` at a time, until all are full or the time is up."""
    start = time.monotonic()
    runs.mkdir(parents=True, exist_ok=True)
    environment = _environment(kit, runs)
    waiting, alive = list(wanted), {}
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: interrupted.append(n))
    shown = 0.0
    while True:
        left = 60 * minutes - (time.monotonic() - start)
        for name in [n for n, process in alive.items() if process.poll() is not None]:
            if code := alive.pop(name).returncode:
                print(f"{name} ended with {code}: see {runs / name}.out", flush=True)
        while waiting and len(alive) < jobs and left > RESERVE and not interrupted:
            one = waiting.pop(0)
            options = ["--minutes", str((left - RESERVE) / 60), "--trials", str(trials)]
            command = [sys.executable, "-u", "-m", "benchmarks.search.live", "search"]
            with (runs / f"{one.name}.out").open("a", encoding="utf-8") as log:
                alive[one.name] = subprocess.Popen(
                    [*command, "--name", one.name, *options],
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
        if time.monotonic() - start - shown >= EVERY or not alive:
            shown = time.monotonic() - start
            print(f"{shown:4.0f} s  {_progress(wanted, runs)}", flush=True)
        if not alive:
            break
        if interrupted or left <= 0:
            for process in alive.values():
                process.send_signal(signal.SIGTERM)  # gives the running trials back
            for process in alive.values():
                process.wait(30)
            continue
        time.sleep(0.5)


def _environment(kit: Path, runs: Path) -> dict[str, str]:
    """The wheels on the path where optuna is missing, one thread, the kit, the runs."""
    paths = [str(Path.cwd())]
    if find_spec("optuna") is None:
        site = runs / "site"
        if not (site / "unpacked").exists():
            for wheel in sorted((kit / "wheels").glob("*.whl")):
                zipfile.ZipFile(wheel).extractall(site)
            (site / "unpacked").touch()
        paths.append(str(site.resolve()))
    paths += [p for p in (os.environ.get("PYTHONPATH"),) if p]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        KIT: str(kit.resolve()),
        RUNS: str(runs.resolve()),
    }


def _progress(wanted: Sequence[Search], runs: Path) -> str:
    """The last word of each search."""
    found = []
    for one in wanted:
        log = runs / f"{one.name}.out"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        initials = "".join(word[0] for word in one.strategy.split("_"))
        short = f"{one.task[:2]}-{initials}{one.seed}"
        found.append(f"{short} {lines[-1] if lines else '-'}")
    return ", ".join(found)


def search(name: str, trials: int, minutes: float) -> None:
    """One search to its end, then its winner with fresh seeds."""
    from einspace.result import SearchRecord
    from search.launch import Plan
    from search.launch import search as launch
    from search.setup import setup_of
    from search.study import open_ledger

    one = named(name)
    task = _task(one.task)
    budget = task.budget
    setup = setup_of(
        SPACES[one.task],
        task=str(TASKS / f"{one.task}.py"),
        strategy=one.strategy,
        seed=one.seed,
        seed_archs=(),
        epochs=None,
        study=name,
        limits=(budget.max_params, budget.max_flops, None),
        pruner="none",
    )
    told = -1

    def tell(record: SearchRecord) -> None:
        nonlocal told
        done = [t for t in record.trials if t.status not in ("running", "waiting")]
        if len(done) > told:
            told = len(done)
            best = max((t.value for t in done if t.value is not None), default=0.0)
            print(f"{told}/{trials} {best:.4f}", flush=True)

    plan = Plan(trials=trials, timeout=60 * minutes, threads=1)
    outcome = launch(setup, plan, tell, every=1.0)
    if outcome.ending.reason != "done":
        print(f"{told}/{trials} {outcome.ending.reason}", flush=True)
        return
    ledger = open_ledger(name)
    path = ledger.folder / "confirmed.json"
    if not path.exists():
        path.write_text(json.dumps(confirmed(ledger)), encoding="utf-8")
    print(f"{trials}/{trials} confirmed {statistics.fmean(json.loads(path.read_text())):.4f}")


def confirmed(ledger: "Ledger") -> list[float]:
    """What the winner of a study is worth on validation with seeds that chose nothing.

    Raises: RuntimeError where a training fails.
    """
    from einspace.compile import compile_text
    from search.evaluate import Evaluator, Job
    from search.records import search_record

    best, task = search_record(ledger).best(), _task(ledger.setup.name.partition("-")[0])
    assert best is not None
    values = []
    with Evaluator(task) as evaluator:
        for seed in FRESH:
            job = Job(
                source=compile_text(best.text, task.interface).source,
                seed=seed,
                epochs=ledger.setup.epochs,
                lr=best.params["lr"],
                weight_decay=best.params["weight_decay"],
            )
            result = evaluator.run(job)
            if result.value is None:
                raise RuntimeError(f"the winner ended as {result.status}: {result.error}")
            values.append(result.value)
    return values


def _task(name: str) -> Any:
    from search.tasks import find

    return find(str(TASKS / f"{name}.py"))


def collect(kit: Path) -> Mapping[str, object]:
    """What is there of all searches: a row `number, status, value, id, CPU seconds, origin` a
    trial, the winner, and what fresh seeds say of it."""
    from search.records import search_record
    from search.storage import runs_dir
    from search.study import open_ledger

    found: list[Mapping[str, object]] = []
    about = json.loads((kit / "about.json").read_text(encoding="utf-8"))
    for journal in sorted(runs_dir().glob("*/journal.log")):
        one = named(journal.parent.name)
        ledger = open_ledger(one.name)
        record = search_record(ledger)
        best, path = record.best(), ledger.folder / "confirmed.json"
        ends = [t.started + t.seconds for t in record.trials if t.seconds]
        about |= {k: v for k, v in record.tags.items() if k in ("python", "torch", "optuna")}
        found.append(
            {
                "task": one.task,
                "space": record.space,
                "strategy": one.strategy,
                "seed": one.seed,
                "metric": record.metric,
                "trials": [_row(t) for t in record.trials],
                "wall": round(max(ends) - record.trials[0].started, 1) if ends else 0.0,
                "best": best and {"trial": best.number, "text": best.text, **best.params},
                "confirmed": json.loads(path.read_text()) if path.exists() else [],
            }
        )
    return {"about": about, "searches": found}


def _row(trial: Any) -> Line:
    seconds = round(trial.metrics.get("cpu_seconds", 0.0), 2)
    value = None if trial.value is None else round(trial.value, 5)
    return [trial.number, trial.status, value, trial.hash, seconds, trial.origin]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "run", "search", "collect"))
    parser.add_argument("--kit", type=Path, default=Path("build/live-kit"))
    parser.add_argument("--runs", type=Path, default=Path("build/live"))
    parser.add_argument("--out", type=Path, default=Path("build/live.json"))
    parser.add_argument("--python", default="3.12", help="prepare: the version over there")
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--tasks", default=",".join(SPACES), help="run: which of them")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="run: which of them")
    parser.add_argument("--name", help="search: which study")
    args = parser.parse_args(arguments)
    if args.what == "prepare":
        prepare(args.kit, args.python)
    elif args.what == "run":
        tasks, strategies = args.tasks.split(","), args.strategies.split(",")
        wanted = [s for s in searches(strategies) if s.task in tasks]
        run(wanted, args.kit, args.runs, args.jobs, args.minutes, args.trials)
        own = [sys.executable, "-m", "benchmarks.search.live", "collect"]
        own += ["--kit", str(args.kit), "--out", str(args.out)]
        subprocess.run(own, env=_environment(args.kit, args.runs), check=True)
    elif args.what == "search":
        search(args.name, args.trials, args.minutes)
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(collect(args.kit), indent=0), encoding="utf-8")
        print(f"{args.out}: {args.out.stat().st_size:,} B", flush=True)


if __name__ == "__main__":
    main()
