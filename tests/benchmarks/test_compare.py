"""The comparison on a small made-up table: the same course twice, resumed, told on one page."""

import gzip
import hashlib
import json
import sys
from pathlib import Path

import optuna
import pytest

from benchmarks.search import compare, compare_plots
from benchmarks.search.compare import STRATEGIES, WARM, Suggest, finished, search, seed_of
from benchmarks.search.settings import settings
from benchmarks.search.tabular import COLUMNS
from einspace.candidates import draw, frame
from search.strategies.prior import Prior

TASK, TRIALS, SEEDS = "digits", 6, 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed table of what is drawn first and of the hand-written one; values follow the id."""
    setting = settings()[TASK]
    place = frame(str(setting.space), setting.task.interface)
    drawn = {seed_of(place, WARM[TASK]).hash: WARM[TASK]}
    for seed in range(SEEDS):
        for number in range(TRIALS):
            for redraw in range(3):
                found, _ = Prior().propose(
                    place, (), maximize=True, seed=seed, number=number, redraw=redraw
                )
                drawn[found.hash] = found.text
        # The first ten trials of TPE are random, whatever they were worth.
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        for _ in range(9):
            trial = study.ask()
            found = draw(place, Suggest(trial))
            drawn[found.hash] = found.text
            study.tell(trial, 0.0)
    rows = [
        [id_, text, 10, 20, ["ok"], [[0.1, _value(id_)]], [0.5], [1.0]]
        for id_, text in sorted(drawn.items())
    ]
    about = {"task": TASK, "metric": "acc", "direction": "maximize"}
    folder = tmp_path_factory.mktemp("results")
    text = json.dumps({"about": about, "columns": COLUMNS, "rows": rows})
    (folder / f"{TASK}.json.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def _value(id_: str) -> float:
    return int(hashlib.sha256(id_.encode()).hexdigest()[:6], 16) / 16**6


def _main(main: object, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    assert callable(main)
    main()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_takes_the_same_course(strategy: str, results: Path) -> None:
    one, two, other = (search((TASK, strategy, s, TRIALS, results)).values for s in (0, 0, 1))
    assert one == two
    assert one != other
    assert len(one) == TRIALS
    assert None not in one


def test_a_stopped_comparison_goes_on_and_its_page_names_every_strategy(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "runs.jsonl", tmp_path / "search.md"
    asked = {"tasks": TASK, "trials": TRIALS, "jobs": 1, "results": results, "out": out}
    few = ",".join(STRATEGIES[:3])
    _main(compare.main, monkeypatch, **asked, seeds=1, strategies=few)
    torn = out.read_text(encoding="utf-8")
    out.write_text(torn[:-20], encoding="utf-8")
    kept = set(finished(out, TRIALS))
    assert len(kept) == 2
    _main(compare.main, monkeypatch, **asked, seeds=SEEDS)
    runs = finished(out, TRIALS)
    assert set(runs) == {(TASK, name, seed) for name in STRATEGIES for seed in range(SEEDS)}
    lines = [
        json.loads(row) for row in out.read_text(encoding="utf-8").splitlines() if row[-1:] == "}"
    ]
    assert len(lines) == len(runs)  # what was there is not done again
    for key in kept:
        assert runs[key].values == search((*key, TRIALS, results)).values
    words = {"trials": TRIALS, "results": results, "out": out, "page": page}
    _main(compare_plots.main, monkeypatch, **words)
    text = page.read_text(encoding="utf-8")
    assert all(f"\n| {name} | " in text for name in STRATEGIES)
    assert f"above it in {SEEDS} of {SEEDS} runs" in text
    assert (tmp_path / f"search-{TASK}.png").stat().st_size > 0
