"""The live confirmation: pairs, trials to reach, a page of both; tasks out of the kit alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.search import live, live_page
from benchmarks.search.plan import write_data
from search.task import Data, Split
from search.tasks import find


def searched(strategy: str, seed: int, values: list[float | None]) -> dict[str, Any]:
    trials = [[n, "nan" if v is None else "ok", v, f"{n}", 1.0, ""] for n, v in enumerate(values)]
    about = {"task": "images", "space": "vision", "metric": "acc", "wall": 2.0}
    return {**about, "strategy": strategy, "seed": seed, "trials": trials, "confirmed": [0.5, 0.7]}


def test_every_pair_shares_task_and_seed() -> None:
    found = live.searches()
    assert len({s.name for s in found}) == 12
    for one in found[::2]:
        assert [s.strategy for s in found if (s.task, s.seed) == (one.task, one.seed)] == list(
            live.STRATEGIES
        )


def test_a_failed_trial_changes_no_best_and_a_goal_never_reached_is_past_the_end() -> None:
    curve = live_page.curve(searched("evolution", 0, [0.2, None, 0.6, 0.5]))
    assert list(curve) == [0.2, 0.2, 0.6, 0.6]
    assert live_page.reach(curve, 0.6) == 3
    assert live_page.reach(curve, 0.7) == 5


def test_the_page_tells_pairs_and_leaves_a_lone_search_out(tmp_path: Path) -> None:
    runs = [
        searched("evolution", 0, [0.2, 0.4, 0.5]),
        searched("bayes_evolution", 0, [0.2, 0.6, 0.7]),
        searched("evolution", 1, [0.9]),
    ]
    results = tmp_path / "live.json"
    results.write_text(json.dumps({"about": {"torch": "2"}, "searches": runs}))
    live_page.main(["--results", str(results), "--page", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert "| 0 | 0.5000 | 0.7000 | 0.6000 | 0.6000 | 3 | 2 | 3 / 3 | 2 / 2 |" in text
    assert "higher in 1 and lower in 0 of 1 pairs" in text
    assert "0.9" not in text
    assert (tmp_path / "search-live-images.png").stat().st_size > 0


@pytest.mark.parametrize("name", live.SPACES)
def test_a_live_task_reads_nothing_but_the_kit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = find(str(live.TASKS / f"{name}.py"))
    x = torch.ones(3, *task.interface.inputs["x"].shape)
    part = Split(x, torch.zeros(3, dtype=torch.long))
    write_data(name, Data(part, part, part, "made up", ""), tmp_path)
    monkeypatch.setenv(live.KIT, str(tmp_path))
    data = task.load(0)
    assert data.provenance == "made up"
    assert torch.equal(data.val.x, x)
