"""The page of kernel rows: a table an engine, a roofline, and what the goals say.

    python -m benchmarks.kernels.page --rows build/kernels/rows.jsonl

Copies the rows to `benchmarks/results/kernels.jsonl` (a row measured again replaces the old one)
and writes `docs/results/kernels.md` and `docs/results/kernels.png` from that file.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.kernels.harness import SDPA

ROWS = Path("benchmarks/results/kernels.jsonl")
PAGE = Path("docs/results/kernels.md")
PLOT = Path("docs/results/kernels.png")
REMARKS = Path("benchmarks/kernels/remarks.md")
Found = Mapping[str, Any]


def read(*paths: Path) -> list[Found]:
    """The rows of the files in order; a later one replaces an earlier one with the same name."""
    rows: dict[str, Found] = {}
    for path in paths:
        for text in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(text)
            rows[row["row"]] = row
    return list(rows.values())


def peers(row: Found) -> Mapping[str, float]:
    return {k: v for k, v in row.get("ms", {}).items() if k != "ours"}


def ratio(row: Found) -> float | None:
    """Time of the best peer over ours; None where either was not measured."""
    others = peers(row)
    ours = row.get("ms", {}).get("ours")
    return min(others.values()) / ours if others and ours else None


def _cells(row: Found) -> list[str]:
    _, name, mode = row["row"].split("/", 2)
    ours, others, rate = row.get("ms", {}).get("ours"), peers(row), ratio(row)
    best = min(others, key=lambda k: others[k]) if others else ""
    failed = [k for k in row.get("marks", {}) if k not in row.get("ms", {})]
    remark = [row["note"]] * bool(row["note"]) + [f"{k} fails" for k in failed]
    return [
        name,
        mode,
        "WRONG" if row["status"] != "ok" else f"{ours:.3f}" if ours else "failed",
        f"{best} {others[best]:.3f}" if best else "-",
        f"{rate:.2f}" if rate else "-",
        f"{100 * row['floor_ms'] / ours:.0f} %" if ours else "-",
        f"{row['error']:.0e}",
        "; ".join(remark),
    ]


def table(rows: Sequence[Found]) -> str:
    heads = ["row", "mode", "ours ms", "best peer ms", "ratio", "of floor", "error", "remark"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(r)) + " |" for r in rows)])


def verdict(rows: Sequence[Found]) -> str:
    """What the goals (1.0 on every row, 1.5 on the median one) say of these rows.

    A row that torch's SDPA serves stands outside the median, and is level within 3 %.
    """
    sdpa = [r for r in rows if r["note"] == SDPA]
    rates = [(r["row"], x) for r in rows if r not in sdpa and (x := ratio(r)) is not None]
    level = sum((ratio(r) or 1.0) >= 0.97 for r in sdpa)
    served = f"{level} of {len(sdpa)} rows that torch's SDPA serves are level with its best backend"
    if not rates:
        return f"{served}." if sdpa else "No row has a peer."
    below = [f"{name.split('/', 1)[1]} ({x:.2f})" for name, x in rates if x < 1]
    text = (
        f"{len(rates)} rows with a peer, median ratio {statistics.median(x for _, x in rates):.2f}"
    )
    text = f"{text}; below 1.0: {', '.join(below) if below else 'none'}."
    return f"{text} {served}." if sdpa else text


def plot(rows: Sequence[Found], path: Path) -> None:
    """Percent of the floor over arithmetic intensity, ours and the best peer."""
    figure, axes = plt.subplots(figsize=(9, 5))
    engines = sorted({r["row"].split("/")[0] for r in rows})
    for number, engine in enumerate(engines):
        mine = [
            r for r in rows if r["row"].startswith(f"{engine}/") and r.get("ms", {}).get("ours")
        ]
        shade = f"C{number}"
        at = [min(1e5, max(0.1, r["flops"] / max(1, r["bytes"]))) for r in mine]
        share = [100 * r["floor_ms"] / r["ms"]["ours"] for r in mine]
        axes.scatter(at, share, color=shade, label=f"{engine}, ours", s=28)
        beside = [(x, r) for x, r in zip(at, mine, strict=True) if peers(r)]
        axes.scatter(
            [x for x, _ in beside],
            [100 * r["floor_ms"] / min(peers(r).values()) for _, r in beside],
            facecolors="none",
            edgecolors=shade,
            label=f"{engine}, best peer",
            s=28,
        )
    if rows:
        axes.axvline(rows[0]["rate"] / rows[0]["copy"], color="0.7", lw=1)
        axes.set_title(f"{rows[0]['device']}: left of the line bytes are the floor, right FLOPs")
    axes.set_xscale("log")
    axes.set_xlabel("FLOP a byte (0.1 and less at the left edge)")
    axes.set_ylabel("percent of the floor")
    axes.set_ylim(0, 105)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(rows: Sequence[Found]) -> str:
    by_engine: dict[str, list[Found]] = defaultdict(list)
    for row in rows:
        by_engine[row["row"].split("/")[0]].append(row)
    first = rows[0]
    text = [
        "# Kernels beside their peers",
        "",
        f"`python -m benchmarks.kernels.harness`, {first['device']}, torch {first['torch']}, "
        f"{', '.join(sorted({r['date'] for r in rows}))}. One run a row: checked against float64 "
        "first (`error`: the largest, of output and gradients), then ours and each peer "
        "as CUDA-graph replays over rotating inputs, medians. `ratio`: best peer over ours, above 1"
        f" is faster. `of floor`: the least bytes at {first['copy'] / 1e12:.2f} TB/s or FLOPs at "
        f"{first['rate'] / 1e12:.0f} TFLOP/s, both measured, over the time taken.",
        "",
        "![percent of the floor](kernels.png)",
        "",
        verdict(rows),
    ]
    for engine, mine in sorted(by_engine.items()):
        text += ["", f"## {engine}", "", verdict(mine), "", table(mine)]
    if REMARKS.exists():
        text += ["", REMARKS.read_text().rstrip()]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    rows = sorted(read(ROWS, *arguments.rows), key=lambda r: r["row"])
    if not rows:
        parser.error("no rows: run benchmarks.kernels.harness on a GPU first")
    ROWS.write_text("".join(json.dumps(r) + "\n" for r in rows))
    plot(rows, PLOT)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
