"""Does `--proxy` help a search? The filter and the feature, on the tables.

    python -m benchmarks.search.proxied run [--jobs 2 --seeds 8 --trials 100]
    python -m benchmarks.search.proxied page

On a machine without the data packages `$PROXIED_KIT` is a folder that `write_data` of
`benchmarks/search/plan.py` has filled, such as that of the tables.

The same searches as in `benchmarks/search/compare.py`: `evolution` with and without the filter of
eight proposals (`search/strategies/filtered.py`), `bayes_evolution` with and without the proxy as a
feature of its surrogate. A proxy is computed as a trial would start: seed 0, the first rows of the
training part. Runs are appended as they end, seed by seed, so a stopped run is a smaller one; a
line compares the seeds that both have.

Told: mean final regret, median trials to the mean final best of the same strategy without a proxy,
in how many pairs the final is better or worse, and Wilcoxon's p of the finals, paired by seed.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.search.compare import Run, finished, searched
from benchmarks.search.compare_plots import regrets
from benchmarks.search.plan import read_data
from benchmarks.search.settings import Setting, settings
from benchmarks.search.tabular import read
from einspace.candidates import Candidate, frame
from einspace.compile import compile_text
from einspace.load import load
from search.proxies import PROXIES
from search.strategies import Strategy
from search.strategies.bayes import BayesEvolution
from search.strategies.evolution import Evolution
from search.strategies.filtered import LOWEST, Filtered
from search.task import Data

KIT = "PROXIED_KIT"
TASKS = ("digits", "mnist5k", "vowels")
WITH = ("params", "naswot", "snip")
COLUMNS = (
    *(("evolution", proxy) for proxy in ("", *WITH)),
    *(("bayes_evolution", proxy) for proxy in ("", *WITH)),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """A proxy of the architectures of a setting, by id."""

    setting: Setting
    name: str
    data: Data
    known: dict[str, float] = field(default_factory=dict)

    def __call__(self, text: str, hash_: str) -> float:
        if hash_ not in self.known:
            task, train = self.setting.task, self.data.train
            torch.manual_seed(0)
            model = load(compile_text(text, task.interface).source)()
            size = min(task.budget.batch, len(train))
            found = PROXIES[self.name](model, train.x[:size], train.y[:size], task.loss)
            self.known[hash_] = found if math.isfinite(found) else LOWEST
        return self.known[hash_]


@functools.cache
def scores(task: str, proxy: str) -> Scores:
    """Remembered within a process: runs of one task meet the same architectures."""
    setting, kit = settings()[task], os.environ.get(KIT)
    return Scores(setting, proxy, read_data(task, Path(kit)) if kit else setting.load())


def search(job: tuple[str, str, str, int, int]) -> Run:
    """One whole search on a table."""
    task, base, proxy, seed, trials = job
    torch.set_num_threads(1)
    setting = settings()[task]
    place = frame(str(setting.space), setting.task.interface)
    score = scores(task, proxy) if proxy else None

    def notes(found: Candidate) -> Mapping[str, float]:
        value = score(found.text, found.hash) if score else LOWEST
        return {"proxy": value} if math.isfinite(value) else {}

    strategy: Strategy
    if base == "evolution":
        strategy = Filtered(Evolution(), proxy, score) if score else Evolution()
    else:
        strategy = BayesEvolution(score=score)
    rows = searched(place, read(task), strategy, seed, trials, notes=notes)
    return Run(task, f"{base}/{proxy}", seed, tuple(r.value for r in rows), 0.0)


def row(task: str, runs: Mapping[tuple[str, str, int], Run], base: str, proxy: str) -> str:
    """A strategy with a proxy against the same without."""
    from scipy.stats import wilcoxon

    seeds = [
        s
        for (t, name, s) in runs
        if (t, name) == (task, f"{base}/{proxy}") and (task, f"{base}/", s) in runs
    ]
    mine, plain = (
        regrets(read(task), [runs[task, f"{base}/{p}", s] for s in sorted(seeds)])
        for p in (proxy, "")
    )
    differ = mine[:, -1] - plain[:, -1]
    goal = plain[:, -1].mean() + 1e-12
    there = mine <= goal
    reach = np.where(there.any(axis=1), there.argmax(axis=1) + 1, mine.shape[1] + 1)
    p = f"{wilcoxon(differ).pvalue:.2g}" if proxy and np.any(differ) else ""
    pairs = f"{(differ < 0).sum()} / {(differ > 0).sum()} of {len(seeds)}" if proxy else ""
    return (
        f"| {base} | {proxy or '-'} | {mine[:, -1].mean():.4f} | {np.median(reach):g} | {pairs} "
        f"| {p} |"
    )


def page(runs: Mapping[tuple[str, str, int], Run]) -> str:
    """A table a task."""
    parts = []
    for task in TASKS:
        lines = [
            f"**{task}**",
            "",
            "| strategy | proxy | final regret | to reach | better / worse | p |",
            "|---|---|---|---|---|---|",
        ]
        for base, proxy in COLUMNS:
            if any(key[:2] == (task, f"{base}/{proxy}") for key in runs):
                lines.append(row(task, runs, base, proxy))
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path, default=Path("build/proxied.jsonl"))
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(args.out, args.trials)
    if args.what == "page":
        print(page(done))
        return
    jobs = [
        (task, base, proxy, seed, args.trials)
        for seed in range(args.seeds)
        for base, proxy in COLUMNS
        for task in args.tasks.split(",")
        if (task, f"{base}/{proxy}", seed) not in done
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.jobs) as pool, args.out.open("a", encoding="utf-8") as file:
        for n, run in enumerate(pool.imap_unordered(search, jobs), 1):
            record = {k: getattr(run, k) for k in ("task", "strategy", "seed", "values", "seconds")}
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(f"{n}/{len(jobs)} {run.task} {run.strategy} {run.seed}", flush=True)


if __name__ == "__main__":
    main()
