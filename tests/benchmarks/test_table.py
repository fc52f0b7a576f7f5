"""The table: resumed after a kill, honest about torn lines, and read back as it was packed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.search.plan import read_data, read_plan, write_plan
from benchmarks.search.settings import settings
from benchmarks.search.table import Bench, finished, run, todo, train_one
from benchmarks.search.tabular import pack, read, unpack

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NAME = "mqar"  # its data are generated: no package is needed


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    assert write_plan(settings()[NAME], folder, limit=4) == 4
    return folder


def bench(kit: Path) -> Bench:
    return Bench(settings()[NAME], read_data(NAME, kit), read_plan(NAME, kit))


def test_a_run_trains_every_architecture_twice_and_a_second_one_nothing(
    kit: Path, tmp_path: Path
) -> None:
    assert run(kit, tmp_path, [NAME], jobs=2, minutes=2.0) == 0
    rows = finished(tmp_path)
    assert len(rows) == 8
    assert {row["status"] for row in rows.values()} == {"ok"}
    before = sorted(tmp_path.iterdir())
    assert run(kit, tmp_path, [NAME], jobs=2, minutes=2.0) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert "4/4 architectures, 4 with two seeds" in pack(NAME, kit, rows, tmp_path / "packed")
    table = read(NAME, tmp_path / "packed")
    assert unpack(NAME, tmp_path / "again", tmp_path / "packed") == 8
    pack(NAME, kit, finished(tmp_path / "again"), tmp_path / "repacked")
    assert read(NAME, tmp_path / "repacked") == table
    for (_, id_, seed), row in rows.items():
        assert list(table.entries[id_].curves[seed]) == row["curve"]
        assert table.entries[id_].seconds[seed] > 0
    assert table.best() == max(
        sum(float(rows[NAME, i, s]["curve"][-1]) for s in (0, 1)) / 2  # type: ignore[index]
        for i in table.entries
    )


def test_the_same_seed_gives_the_same_curve(kit: Path) -> None:
    one = bench(kit)
    first, second = (train_one(one, one.planned[0], 1) for _ in range(2))
    assert first["curve"] == second["curve"]
    assert train_one(one, one.planned[0], 0)["curve"] != first["curve"]


def test_a_killed_run_loses_only_what_was_being_trained(kit: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.search.table", "run", "--kit", str(kit)]
    command += ["--out", str(tmp_path), "--jobs", "1", "--task", NAME]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not finished(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()  # the workers die with it
    process.wait()
    kept = finished(tmp_path)
    assert 1 <= len(kept) < 8
    assert len(todo({NAME: bench(kit)}, set(kept))) == 8 - len(kept)


def test_a_torn_line_is_no_training(tmp_path: Path) -> None:
    row = json.dumps({"task": NAME, "id": "a", "seed": 0, "curve": [0.5]})
    (tmp_path / "shard-1-001.jsonl").write_text(row + "\n" + row[:20])
    assert list(finished(tmp_path)) == [(NAME, "a", 0)]


def test_seed_0_comes_first_and_nothing_twice(kit: Path) -> None:
    items = todo({NAME: bench(kit)}, set())
    assert [item.seed for item in items] == [0] * 4 + [1] * 4
    assert sorted(item.index for item in items) == [0, 0, 1, 1, 2, 2, 3, 3]
