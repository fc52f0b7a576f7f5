"""Leases: the dead are found, the living are left alone, and a trial is tried again."""

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.claim import RETRIES, orphan
from search.lease import Beat, Lease, give_back, host_name, is_dead, own_lease, process_start, reap
from search.study import Ledger
from tests.search.small_search import ledger, use_runs, work


@pytest.fixture(autouse=True)
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    use_runs(monkeypatch, tmp_path)
    return ledger()


def _dead() -> Lease:
    """The lease of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = Lease(host_name(), child.pid, process_start(child.pid) or 0.0, time.time())
    child.communicate(b"\n")
    return lease


def _running(opened: Ledger, lease: Lease | None, **attrs: object) -> int:
    stored = {"nas.lease": asdict(lease)} if lease else {}
    opened.study.enqueue_trial({}, user_attrs={**stored, **attrs})
    return opened.study.ask().number


def test_this_process_is_alive() -> None:
    assert not is_dead(own_lease(), time.time() + 1e6)


def test_a_process_that_ended_is_dead_at_once() -> None:
    assert is_dead(_dead(), time.time())


def test_a_process_that_nobody_buried_yet_is_dead() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    while process_start(child) is not None:
        time.sleep(0.01)
    assert Path(f"/proc/{child}").exists()
    os.waitpid(child, 0)


def test_a_pid_used_again_is_dead() -> None:
    assert is_dead(replace(own_lease(), start=own_lease().start - 1), time.time())


def test_another_host_is_dead_after_a_minute_without_a_beat() -> None:
    lease = replace(own_lease(), host="elsewhere", beat=1000.0)
    assert not is_dead(lease, 1059.0)
    assert is_dead(lease, 1061.0)


def test_only_the_trials_of_the_dead_are_reaped(opened: Ledger) -> None:
    dead = _running(opened, _dead())
    living = _running(opened, own_lease())
    assert reap(opened) == [dead]
    assert [t.status for t in opened.table()] == ["killed", "running"]
    assert opened.table()[dead].error == "its worker died"
    assert living == 1


def test_a_trial_without_a_lease_is_reaped_after_a_minute(opened: Ledger) -> None:
    _running(opened, None)
    assert reap(opened) == []
    assert reap(opened, now=time.time() + 61) == [0]


def test_a_trial_that_ended_by_itself_is_not_given_back(opened: Ledger) -> None:
    number = _running(opened, own_lease())
    opened.study.tell(number, 0.5)
    assert not give_back(opened, number, "died", "late")
    assert [(t.status, t.value) for t in opened.table()] == [("ok", 0.5)]


def test_a_beat_renews_the_lease_and_stops_when_the_trial_ends(opened: Ledger) -> None:
    number = _running(opened, replace(own_lease(), beat=0.0))
    with Beat(opened, number, every=0.02):
        end = time.time() + 5
        while opened.trials()[number].user_attrs["nas.lease"]["beat"] == 0.0:
            assert time.time() < end
            time.sleep(0.02)
        opened.study.tell(number, 0.5)
        time.sleep(0.1)
    assert opened.table()[number].status == "ok"


def test_a_killed_trial_is_tried_again_with_its_text_and_parameters(opened: Ledger) -> None:
    work(trials=1)
    done = opened.trials()[0]
    opened.study.enqueue_trial(
        {"lr": 0.003, "weight_decay": 0.01},
        user_attrs={
            **{k: done.user_attrs[k] for k in ("nas.text", "nas.hash", "nas.trace", "nas.origin")},
            "nas.lease": asdict(_dead()),
        },
    )
    trial = opened.study.ask()
    trial.suggest_float("lr", 3e-4, 2e-2, log=True)
    trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    assert work(trials=3).reason == "done"
    table = opened.table()
    assert [t.status for t in table] == ["ok", "killed", "ok"]
    assert table[2].text == table[1].text == done.user_attrs["nas.text"]
    assert table[2].params == table[1].params == {"lr": 0.003, "weight_decay": 0.01}
    assert table[2].trace == table[1].trace
    assert opened.trials()[2].user_attrs["nas.retry_of"] == 1


def test_a_trial_that_kills_its_workers_is_given_up(opened: Ledger) -> None:
    number = _running(opened, _dead(), **{"nas.text": "x"})
    for attempt in range(1, RETRIES + 1):
        reap(opened)
        found = orphan(opened.trials())
        assert found is not None
        assert found.number == number
        number = _running(
            opened,
            _dead(),
            **{"nas.text": "x", "nas.retry_of": number, "nas.attempt": attempt},
        )
    reap(opened)
    assert orphan(opened.trials()) is None
    assert all(t.state is TrialState.FAIL for t in opened.trials())
    assert len(opened.trials()) == 1 + RETRIES


def test_an_interrupted_trial_may_be_taken_up_any_number_of_times(opened: Ledger) -> None:
    number = _running(opened, own_lease(), **{"nas.text": "x", "nas.attempt": RETRIES})
    give_back(opened, number, "interrupted", "the search was stopped")
    found = orphan(opened.trials())
    assert found is not None
    assert found.number == number
