"""The table of accuracies of `benchmarks.learning` as a page: op, family, both tasks, steps."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.learning_ops import EXAMPLES
from ops import families


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown; per op and task the best accuracy over the learning rates that ran, the steps of
    that run, and how it was trained where that was not a captured graph."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["op"], row["task"]), []).append(row)
    known = families()
    lines = [
        "| op | family | MQAR (64, 4) | steps | MAD recall | steps | remarks |",
        "|---|---|---|---|---|---|---|",
    ]
    table = []
    for name, text in EXAMPLES.items():
        cells, remarks, score = [], [], 0.0
        for task in ("mqar", "mad_recall"):
            done = [r for r in runs.get((name, task), []) if r["acc"] is not None]
            if not done:
                refused = [r["how"] for r in runs.get((name, task), [])]
                cells += ["-", "-"]
                remarks += [*(refused or ["not run"])]
                continue
            best = max(done, key=lambda r: (r["acc"], -r["steps"]))
            score += best["acc"]
            cells += [f"{100 * best['acc']:.1f} %", str(best["steps"])]
            if best["how"] != "graph":
                remarks.append(best["how"])
        family = known.get(text.split("(")[0], "")
        label = f"{name} | {family} | {' | '.join(cells)} | {'; '.join(dict.fromkeys(remarks))}"
        table.append((-score, f"| {label} |"))
    return "\n".join([*lines, *(line for _, line in sorted(table))])
