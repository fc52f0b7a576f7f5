"""What the live confirmation says: one plot a task and the page `docs/results/search-live.md`.

Best so far: the highest validation metric of the trials up to here. `to reach`: trials until a
search is as good as the final best of evolution with the same seed; one that never gets there
counts as one more than its budget. `fresh`: the winner trained again with three seeds that chose
nothing, mean, so it is free of the luck of having been picked (-: the search was cut by time, as
its number of trials says). `seconds` are wall-clock. Pairs share the seed. With three
pairs a task no test can be significant (the smallest two-sided p of a sign test over all six is
0.03), so the pairs are shown.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BASE, OURS = "evolution", "bayes_evolution"
Curve = NDArray[np.float64]


def curve(search: Mapping[str, Any]) -> Curve:
    """The best so far after each trial; a failed one changes nothing."""
    values = [0.0 if v is None or status != "ok" else v for _, status, v, *_ in search["trials"]]
    found: Curve = np.maximum.accumulate(np.asarray(values))
    return found


def pairs(searches: Sequence[Mapping[str, Any]], task: str) -> dict[int, dict[str, Any]]:
    """Both searches of each seed that are there, by seed and strategy."""
    found: dict[int, dict[str, Any]] = {}
    for one in searches:
        if one["task"] == task:
            found.setdefault(one["seed"], {})[one["strategy"]] = one
    return {seed: both for seed, both in sorted(found.items()) if {BASE, OURS} <= set(both)}


def reach(curve: Curve, goal: float) -> int:
    """The first trial, from 1, that is as good as the goal."""
    there = np.flatnonzero(curve >= goal - 1e-12)
    return int(there[0]) + 1 if len(there) else len(curve) + 1


def row(seed: int, both: Mapping[str, Any]) -> str:
    """One pair as a row of the table."""
    base, ours = curve(both[BASE]), curve(both[OURS])
    goal = float(base[-1])
    fresh = [
        f"{statistics.fmean(c):.4f}" if (c := both[name]["confirmed"]) else "-"
        for name in (BASE, OURS)
    ]
    counts = [len(both[name]["trials"]) for name in (BASE, OURS)]
    walls = [f"{both[name]['wall']:.0f}" for name in (BASE, OURS)]
    cells = (
        seed,
        f"{goal:.4f}",
        f"{ours[-1]:.4f}",
        *fresh,
        reach(base, goal),
        reach(ours, goal),
        " / ".join(map(str, counts)),
        " / ".join(walls),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def section(task: str, found: Mapping[int, Mapping[str, Any]]) -> str:
    """One task as Markdown."""
    first = next(iter(found.values()))[BASE]
    lines = [
        f"## {task}: space `{first['space']}`",
        "",
        f"![{task}](search-live-{task}.png)",
        "",
        f"| seed | {BASE} | {OURS} | {BASE}, fresh | {OURS}, fresh | to reach, {BASE} "
        f"| to reach, {OURS} | trials | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(seed, both) for seed, both in found.items()),
        "",
    ]
    gains = [float(curve(b[OURS])[-1] - curve(b[BASE])[-1]) for b in found.values()]
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    lines.append(
        f"{OURS} ends higher in {better} and lower in {worse} of {len(gains)} pairs, "
        f"mean difference {statistics.fmean(gains):+.4f}."
    )
    return "\n".join([*lines, ""])


def plot(task: str, found: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """Every search as a thin line, the mean of each strategy as a thick one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name, colour in ((BASE, "tab:blue"), (OURS, "tab:orange")):
        curves = [curve(both[name]) for both in found.values()]
        for each in curves:
            axes.plot(np.arange(1, len(each) + 1), each, color=colour, alpha=0.35, lw=0.8)
        length = min(map(len, curves))
        mean = np.mean([c[:length] for c in curves], axis=0)
        axes.plot(np.arange(1, length + 1), mean, color=colour, lw=2, label=name)
    axes.set(xlabel="trials", ylabel="best validation accuracy so far", title=task)
    low = min(
        float(curve(both[n])[min(4, len(both[n]["trials"]) - 1)])
        for both in found.values()
        for n in both
    )
    axes.set_ylim(bottom=low - 0.01)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/search/live.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/search-live.md"))
    args = parser.parse_args(arguments)
    content = json.loads(args.results.read_text(encoding="utf-8"))
    about = (__doc__ or "").split("\n\n", 1)[1].strip()
    run = ", ".join(f"{k} {v}" for k, v in content["about"].items())
    parts = [f"# Live, on open spaces\n\nReal trainings; {run}.\n{about}\n"]
    for task in dict.fromkeys(one["task"] for one in content["searches"]):
        if found := pairs(content["searches"], task):
            plot(task, found, args.page.parent / f"search-live-{task}.png")
            parts.append(section(task, found))
    args.page.write_text("\n".join(parts), encoding="utf-8")
    print(args.page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
