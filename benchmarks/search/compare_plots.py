"""What the comparison says: JSON, one plot a task, and the page `docs/results/search.md`.

Regret: the best value of the table minus the best value found so far, so all tasks go down to 0.
Bands: 95 % bootstrap intervals of the mean over the seeds. Tests: Wilcoxon signed-rank on the final
regrets against evolution, paired by seed (p = 1 where no pair differs), not corrected for their
number. `to reach`: median trials until a run is as good as the mean final of evolution; a run that
never gets there counts as one more than its budget.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.compare import STRATEGIES, Run, finished
from benchmarks.search.tabular import RESULTS, Table, read

BASE = "evolution"
Curves = Mapping[str, NDArray[np.float64]]


def regrets(table: Table, runs: Sequence[Run]) -> NDArray[np.float64]:
    """[seeds, trials]: how far the best so far is from the best of the table."""
    sign = 1.0 if table.about["direction"] == "maximize" else -1.0
    known = [sign * v for v in (e.value() for e in table.entries.values()) if v is not None]
    low, high = min(known), max(known)
    values = [[low if v is None else sign * v for v in run.values] for run in runs]
    found: NDArray[np.float64] = high - np.maximum.accumulate(np.asarray(values), axis=1)
    return found


def band(curves: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % bootstrap interval of the mean at each trial."""
    draw = np.random.default_rng(0).integers(0, len(curves), (1000, len(curves)))
    low, high = np.percentile(curves[draw].mean(axis=1), (2.5, 97.5), axis=0)
    return low, high


def facts(curves: Curves, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The numbers of one task by strategy."""
    from scipy.stats import wilcoxon

    base = curves[BASE][:, -1]
    found = {}
    for name, each in curves.items():
        final = each[:, -1]
        pairs = min(len(final), len(base))
        differ = final[:pairs] - base[:pairs]
        p = float(wilcoxon(differ).pvalue) if np.any(differ) else 1.0
        there = each <= base.mean() + 1e-12
        reach = np.where(there.any(axis=1), there.argmax(axis=1) + 1, each.shape[1] + 1)
        found[name] = {
            "final_regret": float(final.mean()),
            "low": float(band(each)[0][-1]),
            "high": float(band(each)[1][-1]),
            "found_the_best": float((final <= 1e-12).mean()),
            "to_reach": float(np.median(reach)),
            "p": p,
            "seeds": len(final),
            "cpu_ms_a_trial": 1e3 * seconds[name] / each.shape[1],
        }
    return found


def plot(task: str, curves: Curves, path: Path) -> None:
    """Mean regret by trial, with bands."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name, each in curves.items():
        at = np.arange(1, each.shape[1] + 1)
        (line,) = axes.plot(at, each.mean(axis=0), label=name)
        axes.fill_between(at, *band(each), alpha=0.15, color=line.get_color())
    axes.set(xlabel="trials", ylabel="regret", title=task)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def section(task: str, table: Table, found: Mapping[str, Mapping[str, float]]) -> str:
    """One task as Markdown."""
    lines = [
        f"## {task}",
        "",
        f"{len(table.entries):,} architectures; the best has {table.about['metric']} "
        f"{table.best():.4f}.",
        "",
        f"![{task}](search-{task}.png)",
        "",
        "| strategy | final regret (95 %) | found the best | to reach | p | CPU ms a trial |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        p = "" if name == BASE else f"{row['p']:.3g}"
        lines.append(
            f"| {name} | {row['final_regret']:.4f} ({row['low']:.4f} to {row['high']:.4f}) "
            f"| {row['found_the_best']:.0%} | {row['to_reach']:g} | {p} "
            f"| {row['cpu_ms_a_trial']:.0f} |"
        )
    return "\n".join([*lines, ""])


def warmed(table: Table, runs: Sequence[Run]) -> str:
    """Whether searches that start from a hand-written architecture beat it."""
    first, values = runs[0].values[0], [e.value() for e in table.entries.values()]
    finals = [max(v for v in run.values if v is not None) for run in runs]
    if first is None:
        return "The hand-written architecture could not be trained.\n"
    better = sum(v is not None and v > first for v in values)
    return (
        f"Warm start: its hand-written architecture has {table.about['metric']} {first:.4f}, and "
        f"{better} of {len(values):,} are better. The searches from it end at "
        f"{np.mean(finals):.4f}, above it in {sum(f > first for f in finals)} of {len(finals)} "
        f"runs.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("build/compare.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/search.md"))
    args = parser.parse_args()
    runs = finished(args.out, args.trials)
    if not runs:
        raise SystemExit(f"{args.out} holds no run of {args.trials} trials: run compare first")
    args.page.parent.mkdir(parents=True, exist_ok=True)
    told, parts = {}, []
    for task in dict.fromkeys(run.task for run in runs.values()):
        table, curves, seconds = read(task, args.results), {}, {}
        for name in STRATEGIES:
            mine = [runs[key] for key in sorted(runs) if key[:2] == (task, name)]
            if mine:
                curves[name] = regrets(table, mine)
                seconds[name] = float(np.mean([run.seconds for run in mine]))
        told[task] = facts(curves, seconds)
        plot(task, curves, args.page.parent / f"search-{task}.png")
        parts.append(section(task, table, told[task]))
        if warm := [run for key, run in runs.items() if key[:2] == (task, "warm")]:
            parts.append(warmed(table, warm))
    content = {"trials": args.trials, "tasks": told}
    (args.results / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    about = (__doc__ or "").split("\n\n", 1)[1].strip()
    head = f"# Strategies at equal budgets\n\n{args.trials} trials a run.\n{about}\n\n"
    args.page.write_text(head + "\n".join(parts), encoding="utf-8")
    print(args.page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
