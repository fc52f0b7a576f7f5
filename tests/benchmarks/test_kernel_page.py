"""The page of kernel rows says what the rows say, and nothing better."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernels.page import page, plot, ratio, read, verdict


def row(name: str, ours: float | None, **peers: float) -> dict[str, Any]:
    times = peers | ({} if ours is None else {"ours": ours})
    marks = dict.fromkeys(times, "") | ({"ours": "RuntimeError: no"} if ours is None else {})
    return {
        "row": f"chunked/{name}/fwd",
        "note": "",
        "floor_ms": 0.03,
        "flops": 1e9,
        "bytes": 1e8,
        "copy": 4e12,
        "rate": 7e14,
        "error": 3e-3,
        "status": "ok",
        "ms": times,
        "marks": marks,
        "device": "a card",
        "torch": "2.11.0",
        "date": "2026-11-26",
    }


def test_the_ratio_is_to_the_fastest_peer() -> None:
    assert ratio(row("a", 0.1, fla=0.2, sdpa=0.15)) == pytest.approx(1.5)
    assert ratio(row("a", 0.1)) is None
    assert ratio(row("a", None, fla=0.2)) is None


def test_the_verdict_names_every_row_that_is_slower_than_a_peer() -> None:
    text = verdict([row("good", 0.1, fla=0.2), row("bad", 0.4, fla=0.2), row("fine", 0.1, fla=0.3)])
    assert "median ratio 2.00" in text
    assert "bad/fwd (0.50)" in text
    assert "good" not in text


def test_a_wrong_row_and_a_failed_one_are_told(tmp_path: Path) -> None:
    wrong = row("off", 0.1) | {"status": "wrong", "ms": {}, "marks": {}}
    rows = [wrong, row("dead", None, fla=0.2), row("good", 0.1, fla=0.2)]
    text = page(rows)
    assert "| off | fwd | WRONG |" in text
    assert "| dead | fwd | failed |" in text
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_row_measured_again_replaces_the_old_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text(json.dumps(row("a", 0.4)) + "\n" + json.dumps(row("b", 0.2)) + "\n")
    new.write_text(json.dumps(row("a", 0.1)) + "\n")
    assert [r["ms"]["ours"] for r in read(old, new, tmp_path / "none")] == [0.1, 0.2]
