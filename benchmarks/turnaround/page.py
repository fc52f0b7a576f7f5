"""The page: totals of each class and method, what the issue asks for, and every row."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.turnaround.texts import SIZES, texts

Rows = Mapping[tuple[str, str], Mapping[str, Any]]
NOISE = 0.02  # nats: on top of twice what eager bfloat16 differs from fp32
COMPARED = ("captured", "eager", "compile")


def page(rows: Rows) -> str:
    """The whole page as Markdown."""
    names = ["/".join(key) for key in texts()]
    parts = [totals(rows, names), verdict(rows, names), every_row(rows, names)]
    return "\n\n".join(parts) + "\n"


def _good(rows: Rows, method: str, name: str) -> Mapping[str, Any] | None:
    row = rows.get((method, name))
    return row if row is not None and "step" in row else None


def complete(rows: Rows, names: Sequence[str]) -> list[str]:
    """The rows that all three methods have."""
    return [n for n in names if all(_good(rows, m, n) for m in COMPARED)]


def totals(rows: Rows, names: Sequence[str]) -> str:
    """Seconds by class, over the rows that every method has."""
    lines = ["| class | rows | captured s | eager s | compile s | x eager | x compile |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for size in (*SIZES, "all"):
        mine = [n for n in complete(rows, names) if size == "all" or n.startswith(f"{size}/")]
        if not mine:
            continue
        ours, eager, inductor = (
            sum(float(rows[method, n]["total"]) for n in mine) for method in COMPARED
        )
        lines.append(
            f"| {size} | {len(mine)} | {ours:.1f} | {eager:.1f} | {inductor:.1f} "
            f"| {eager / ours:.2f} | {inductor / ours:.2f} |"
        )
    return "\n".join(lines)


def verdict(rows: Rows, names: Sequence[str]) -> str:
    """Each goal with its figure."""
    both = [n for n in names if _good(rows, "captured", n) and _good(rows, "compile", n)]
    wins = [n for n in both if rows["captured", n]["step"] <= rows["compile", n]["step"]]
    lines = [
        f"- captured step no slower than torch.compile's: {len(wins)} of {len(both)} (25 of 30)"
    ]
    ours = [r for n in names if (r := _good(rows, "captured", n))]
    if ours:
        for word in ("compile", "load", "capture", "setup"):
            found = [1e3 * float(r[word]) for r in ours]
            lines.append(
                f"- {word}: median {statistics.median(found):.0f} ms, most {max(found):.0f} ms"
                + (" (goal 150 ms)" if word == "setup" else "")
            )
    cold = [r for n in names if (r := _good(rows, "cold", n))]
    if cold:
        spent = sum(float(r["setup"]) for r in cold)
        lines.append(
            f"- with an empty kernel cache, one process: set-ups {spent:.1f} s for {len(cold)} rows"
        )
    lines.append(_losses(rows, names))
    failed = [
        f"{m} {n}: {r['error'].splitlines()[0][:90]}" for (m, n), r in rows.items() if "error" in r
    ]
    lines += [f"- failed: {text}" for text in failed]
    return "\n".join(lines)


def _gap(rows: Rows, method: str, name: str) -> float | None:
    """The largest gap to fp32 over the steps that both have."""
    ours, reference = rows.get((method, name)), rows.get(("exact", name))
    if not ours or not reference or "losses" not in ours or "losses" not in reference:
        return None
    return max(abs(a - b) for a, b in zip(ours["losses"], reference["losses"], strict=False))


def _losses(rows: Rows, names: Sequence[str]) -> str:
    checked, bad = 0, []
    for name in names:
        ours, eager = _gap(rows, "captured", name), _gap(rows, "eager", name)
        if ours is None or eager is None:
            continue
        checked += 1
        if not ours <= 2 * eager + NOISE:
            bad.append(f"{name} ({ours:.3f} against {eager:.3f})")
    return (
        f"- losses within bfloat16 noise of fp32 (at most {NOISE} + twice eager bfloat16's gap): "
        f"{checked - len(bad)} of {checked}" + (f"; not {', '.join(bad)}" if bad else "")
    )


def every_row(rows: Rows, names: Sequence[str]) -> str:
    """Steps in ms, totals in s, gaps to fp32 in nats."""
    head = ("row", "captured", "eager", "compile", "capture ms", "total", "eager", "compile")
    lines = ["| " + " | ".join((*head, "gap", "gap eager")) + " |", "|---" * 10 + "|"]
    for name in names:
        good = [_good(rows, method, name) for method in COMPARED]
        if not any(good):
            continue
        cells = [f"{1e3 * r['step']:.3f}" if r else "-" for r in good]
        cells.append(f"{1e3 * good[0]['capture']:.0f}" if good[0] else "-")
        cells += [f"{r['total']:.2f}" if r else "-" for r in good]
        gaps = [_gap(rows, method, name) for method in ("captured", "eager")]
        cells += ["-" if gap is None else f"{gap:.4f}" for gap in gaps]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
