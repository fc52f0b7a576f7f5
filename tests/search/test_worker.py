"""Workers: the trial table is the same twice, the total is kept, a stop gives trials back."""

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from einspace.result import TrialRecord
from grammar.errors import SpaceError, StudyError
from search.final import final_of, finalise, weights_path
from search.launch import Plan, search
from search.lease import own_lease
from search.records import search_record
from search.study import open_ledger
from search.tasks import find as find_task
from search.worker import Interrupted, Stop, WorkerSpec, run_worker
from tests.search.small_search import SETUP, ledger, use_runs, work

TINY = "net = conv2d(dim=4|8, kernel=3) >> relu >> head;"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_runs(monkeypatch, tmp_path)


def _outcome(table: tuple[TrialRecord, ...]) -> list[tuple[object, ...]]:
    """What must be the same twice: all but the clocks."""
    return [
        (t.number, t.status, t.text, t.hash, t.value, t.params, t.trace, t.origin, t.curves)
        for t in table
    ]


def test_the_same_seed_gives_the_same_table_under_any_name_whole_or_in_parts() -> None:
    changes = {"epochs": 4, "min_epochs": 3}
    ledger("whole", **changes)
    ledger("parts", **changes)
    work("whole", 22)
    for total in (9, 22):
        work("parts", total)
    whole, parts = (_outcome(open_ledger(n).table()) for n in ("whole", "parts"))
    assert whole == parts
    assert {row[1] for row in whole} == {"ok", "pruned"}
    assert any(str(row[7]).startswith("mutation of #") for row in whole)
    assert len({row[3] for row in whole}) == 22
    assert {t.engine for t in open_ledger("whole").table()} == {"eager: on the CPU"}
    for trial in open_ledger("whole").table():
        if trial.status == "pruned":
            assert trial.metrics["epochs"] == 3
            assert trial.value == trial.curves["val_acc"][-1]
        assert trial.metrics["flops"] > 0
        assert trial.metrics["nodes"] >= 3
    ledger("other", **changes, seed=1)
    work("other", 3)
    assert _outcome(open_ledger("other").table()) != whole[:3]


def test_an_exhausted_space_ends_the_search_and_says_so() -> None:
    ledger(space_text=TINY)
    ending = work(trials=10)
    assert ending.reason == "exhausted"
    assert "2 different ones in 2 trials" in ending.message
    assert [t.status for t in open_ledger("small").table()] == ["ok", "ok"]


def test_seeds_come_first_and_once_and_a_full_study_takes_no_trial() -> None:
    text = "conv2d(dim=6, kernel=3) >> relu >> head"
    ledger(seeds=(("mine", text),))
    work(trials=3)
    assert work(trials=2).reason == "done"
    table = open_ledger("small").table()
    assert [t.origin for t in table] == ["seed:mine", "prior", "prior"]
    assert table[0].trace == {}
    assert "dim=6" in table[0].text


def test_no_trial_starts_after_the_deadline() -> None:
    ledger()
    ending = run_worker(WorkerSpec(study="small", trials=3, deadline=time.time() - 1))
    assert ending.reason == "deadline"
    assert open_ledger("small").table() == ()


def test_a_told_worker_gives_its_trial_back_and_a_resume_takes_it_up() -> None:
    ledger(epochs=1000, min_epochs=1000)
    stop = Stop()
    old = signal.signal(signal.SIGTERM, stop.handle)
    watch = open_ledger("small")

    def tell() -> None:
        while not any(t.intermediate_values for t in watch.trials()):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        ending = run_worker(WorkerSpec(study="small", trials=3), stop)
    finally:
        signal.signal(signal.SIGTERM, old)
    teller.join()
    assert ending.reason == "stopped"
    assert [(t.status, t.error) for t in watch.table()] == [("killed", "the search was stopped")]
    assert watch.trials()[0].user_attrs["nas.reaped"] == "interrupted"


def test_a_signal_waits_while_the_study_is_written() -> None:
    stop, reached = Stop(), []

    def write() -> None:
        with stop.breakable():
            with stop.shielded():
                stop.handle(signal.SIGTERM, None)
                reached.append("written")
            reached.append("never")

    with pytest.raises(Interrupted):
        write()
    assert reached == ["written"]
    stop.handle(signal.SIGTERM, None)


def test_a_search_runs_in_workers_and_leaves_a_full_record() -> None:
    seen = []
    plan = Plan(trials=7, workers=2, threads=1)
    outcome = search(SETUP, plan, on_poll=seen.append, every=0.1)
    assert outcome.ending.reason == "done"
    assert outcome.record.counts() == {"ok": 7}
    assert len({t.hash for t in outcome.record.trials}) == 7
    pids = {t.user_attrs["nas.lease"]["pid"] for t in open_ledger("small").trials()}
    assert own_lease().pid not in pids
    assert seen[-1] == outcome.record
    tags = outcome.record.tags
    assert tags["data_sha256"] == find_task("digits").load(0).sha256
    assert {"commit", "torch", "optuna", "python", "seed", "threads", "device"} <= set(tags)


def test_a_search_that_cannot_start_says_why_before_any_worker() -> None:
    for change, error in (
        ({"task": "digit"}, StudyError),
        ({"strategy": "prio"}, StudyError),
        ({"space_text": "net = nothing_like_it >> head;"}, SpaceError),
        ({"max_params": 1}, SpaceError),
        ({"seeds": (("bad", "conv2d(dim=4|8) >> head"),)}, SpaceError),
    ):
        with pytest.raises(error):
            search(replace(SETUP, **change), Plan(trials=1))  # type: ignore[arg-type]  # test data
    with pytest.raises(StudyError, match="trials=0"):
        search(SETUP, Plan(trials=0))


def test_the_winner_is_trained_with_three_seeds_and_its_weights_load() -> None:
    from safetensors.torch import load_file

    from einspace.compile import compile_text
    from einspace.load import load

    opened = ledger()
    with pytest.raises(StudyError, match="no trial finished"):
        finalise(opened)
    work(trials=3)
    final = finalise(opened)
    best = search_record(opened).best()
    assert best is not None
    assert (final.trial, final.text) == (best.number, best.text)
    assert final.seeds == (0, 1, 2)
    assert len(set(final.values)) > 1
    assert final.mean == pytest.approx(sum(final.values) / 3)
    assert final.deviation > 0
    assert final_of(search_record(open_ledger("small")).final) == final
    model = load(compile_text(final.text, find_task("digits").interface).source)()
    model.load_state_dict(load_file(weights_path(opened, final)), strict=True)
