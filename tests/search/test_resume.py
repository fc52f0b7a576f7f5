"""Kill -9 at any moment: no finished trial is lost, none is left running, the total is right."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from einspace.result import TrialRecord
from grammar.errors import StudyError
from search.study import open_ledger
from tests.search.small_search import driver, use_runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_runs(monkeypatch, tmp_path)


def _start(trials: int, workers: int = 1, epochs: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        driver("killed", trials, workers, epochs),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return out.strip()


def _finished() -> dict[int, TrialRecord]:
    """The trials that have ended so far; none before the study is there."""
    try:
        table = open_ledger("killed").table()
    except StudyError:
        return {}
    return {t.number: t for t in table if t.status not in ("running", "waiting")}


def _wait_for(count: int, process: subprocess.Popen[str]) -> None:
    end = time.time() + 90
    while len(_finished()) < count:
        assert time.time() < end
        assert process.poll() is None
        time.sleep(0.05)


def _family(pid: int) -> list[psutil.Process]:
    """The workers and all below them."""
    return psutil.Process(pid).children(recursive=True)


def _all_gone(family: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(family, timeout=15)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_coordinator_takes_its_workers_along_and_the_same_command_goes_on() -> None:
    first = _start(8)
    _wait_for(3, first)
    family = _family(first.pid)
    first.kill()
    first.communicate()
    assert len(family) >= 2
    assert _all_gone(family)
    before = _finished()
    assert _finish(_start(8)) == "done"
    after = _finished()
    assert {n: after[n] for n in before} == before
    assert sorted(after) == list(range(8))
    assert {t.status for t in after.values()} <= {"ok", "killed"}
    assert len(open_ledger("killed").table()) == 8


@pytest.mark.slow
def test_an_interrupted_search_ends_cleanly_and_a_second_one_is_refused() -> None:
    first = _start(200, workers=2)
    _wait_for(2, first)
    second = _start(200)
    _, err = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "is being searched by another process" in err
    family = _family(first.pid)
    first.send_signal(signal.SIGINT)
    assert _finish(first) == "stopped"
    assert _all_gone(family)
    table = open_ledger("killed").table()
    assert not [t for t in table if t.status in ("running", "waiting")]
    assert all(t.error == "the search was stopped" for t in table if t.status == "killed")


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_is_tried_again() -> None:
    process = _start(12)
    _wait_for(2, process)
    worker = psutil.Process(process.pid).children()[0]
    end = time.time() + 30
    while not [t for t in open_ledger("killed").table() if t.status == "running"]:
        assert time.time() < end
    worker.kill()
    assert _finish(process) == "done"
    table = open_ledger("killed").table()
    assert len(table) == 12
    assert {t.status for t in table} <= {"ok", "killed"}
    trials = open_ledger("killed").trials()
    for trial in table:
        if trial.status == "killed":
            retry = [t for t in trials if t.user_attrs.get("nas.retry_of") == trial.number]
            assert [t.user_attrs["nas.text"] for t in retry] == [trial.text]


def _wait_for_running(process: subprocess.Popen[str]) -> None:
    """Until a trial of this search (not a dead one's) is training."""
    end = time.time() + 90
    while process.poll() is None and time.time() < end:
        pids = {p.pid for p in _family(process.pid)}
        try:
            trials = open_ledger("killed").trials()
        except StudyError:
            trials = []
        held = {t.user_attrs["nas.lease"]["pid"] for t in trials if not t.state.is_finished()}
        if held & pids:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing() -> None:
    rng, total, epochs = random.Random(0), 24, 20
    for _ in range(8):
        before = _finished()
        process = _start(total, 2, epochs)
        _wait_for_running(process)
        time.sleep(rng.uniform(0.0, 1.5))
        family: list[psutil.Process] = []
        if process.poll() is None:
            family = _family(process.pid)
            workers = [w.pid for w in psutil.Process(process.pid).children()]
            os.kill(rng.choice([process.pid, *workers]), signal.SIGKILL)
            time.sleep(rng.uniform(0.0, 0.5))
            process.kill()
        process.communicate()
        assert _all_gone(family)
        after = _finished()
        assert {n: after[n] for n in before} == before
    assert _finish(_start(total, 2, epochs)) == "done"
    table = open_ledger("killed").table()
    count = {s: sum(t.status == s for t in table) for s in {t.status for t in table}}
    assert [t.number for t in table] == list(range(total))
    assert set(count) == {"ok", "killed"}, count
    assert count["killed"] >= 4, count
    assert len({t.hash for t in table if t.status == "ok"}) == count["ok"]
