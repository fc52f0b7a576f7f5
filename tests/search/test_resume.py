"""Kill -9 at any moment: no finished trial is lost, none is left running, the total is right."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from einspace.result import TrialRecord
from grammar.errors import StudyError
from registry.tracker import ENDED, client_of, run_ids, tracking_uri
from search.storage import Journal, JournalLock, runs_dir
from search.study import open_ledger
from tests.search.small_search import SPACE, driver, use_runs

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


def _words(trials: int, epochs: int) -> list[str]:
    """The search as a user types it."""
    words = [SPACE, "--task", "digits", "--trials", str(trials), "--epochs", str(epochs)]
    more = ["--workers", "2", "--study", "killed", "--json"]
    return [sys.executable, str(ROOT / "cli.py"), "search", *words, *more]


def _typed(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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


def test_a_record_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.symlink_to("/dev/full")
    backend = Journal(str(journal), lock_obj=JournalLock(journal))  # type: ignore[arg-type]  # as in storage.py
    with pytest.raises(StudyError, match=r"journal\.log: No space left on device") as error:
        backend.append_logs([{"op_code": 0}])
    assert "make room" in error.value.hint


@pytest.mark.slow
def test_a_full_disk_ends_the_search_with_one_error_and_nothing_left_running() -> None:
    """Files of 16 KiB at most: the journal is full after some trials, MLflow from its start."""
    command = _words(30, epochs=1)
    limited = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *command]
    process = _typed(limited)
    _wait_for(1, process)
    family = _family(process.pid)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert _all_gone(family)
    assert "Traceback" not in err
    (told,) = json.loads(out)["errors"]
    assert "journal.log: File too large" in told["message"]
    assert "make room" in told["message"] + told["hint"]
    assert err.count("MLflow could not be written") == 1
    assert _finish(_typed(_words(len(_finished()) + 2, epochs=1)))
    assert not [t for t in open_ledger("killed").table() if t.status == "running"]


def _wait_for_running(process: subprocess.Popen[str]) -> None:
    """Until a trial of this search (not a dead one's) is training."""
    end = time.time() + 90
    while True:
        assert process.poll() is None, "the search ended before its last kill"
        assert time.time() < end
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
def test_ten_kills_at_random_moments_lose_nothing_and_mlflow_shows_the_study() -> None:
    """Five of a worker, whose coordinator goes on, and five of the coordinator, in random order."""
    rng, total = random.Random(0), 40
    victims = ["worker", "coordinator"] * 5
    rng.shuffle(victims)
    process = _typed(_words(total, epochs=24))
    for victim in victims:
        _wait_for_running(process)
        time.sleep(rng.uniform(0.0, 1.5))
        before = _finished()
        hit = psutil.Process(process.pid)
        if victim == "worker":
            hit = rng.choice(hit.children())
        family = [hit, *hit.children(recursive=True)]
        assert hit.status() != psutil.STATUS_ZOMBIE, f"{victim} died before its kill"
        hit.kill()
        if victim == "coordinator":
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            process = _typed(_words(total, epochs=24))
        assert _all_gone(family)
        after = _finished()
        assert {n: after[n] for n in before} == before
    facts = json.loads(_finish(process))
    table = open_ledger("killed").table()
    count = Counter(t.status for t in table)
    print(f"ten kills: {dict(count)}")
    assert [t.number for t in table] == list(range(total))
    assert {"ok", "killed"} <= set(count) <= {"ok", "killed", "pruned"}, count
    assert count["killed"] >= 5, count
    done = [t.hash for t in table if t.status in ("ok", "pruned")]
    assert len(set(done)) == len(done)
    assert facts["trials"] == total
    uri = tracking_uri(runs_dir())
    client = client_of(uri)
    shown = {n: client.get_run(run).info.status for n, run in run_ids(uri, "killed").items()}
    assert shown == {t.number: ENDED[t.status] for t in table}
