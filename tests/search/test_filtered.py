"""The filter: the best of eight proposals by a proxy, in a real search and by hand."""

import json
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import pytest
import torch

from einspace.candidates import frame
from einspace.compile import compile_text
from einspace.result import TrialRecord
from grammar.errors import StudyError
from search import zygote
from search.evaluate import Evaluator, Job
from search.setup import setup_of
from search.strategies import find
from search.strategies.filtered import LOWEST, Filtered, Scorer
from search.strategies.prior import Prior
from search.study import create
from search.tasks import find as find_task
from tests.search.small_search import SPACE, ledger, use_runs, work
from tests.search.synthetic import place, run
from tests.test_cli import run as command

FACE = find_task("digits").interface


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_runs(monkeypatch, tmp_path)


def _length(text: str, hash_: str) -> float:
    return float(len(text))


def test_the_best_of_the_draws_is_proposed_and_a_known_one_is_not() -> None:
    space = place()
    filtered = Filtered(Prior(), "length", _length)
    for redraw, stride in ((0, -100), (3, -100), (12, 100)):
        draws = [
            Prior().propose(space, (), maximize=True, seed=1, number=5, redraw=redraw + j * stride)[
                0
            ]
            for j in range(8)
        ]
        assert len({d.hash for d in draws}) > 4
        best = max(draws, key=lambda d: len(d.text))
        ask = {"maximize": True, "seed": 1, "number": 5, "redraw": redraw}
        found, origin = filtered.propose(space, (), **ask)  # type: ignore[arg-type]  # by name
        assert found == best
        assert origin.startswith("prior, best length of ")
        taken = (TrialRecord(0, "ok", best.text, best.hash, 0.5),)
        second, _ = filtered.propose(space, taken, **ask)  # type: ignore[arg-type]  # by name
        rest = [d for d in draws if d.hash != best.hash]
        assert second == max(rest, key=lambda d: len(d.text))


@pytest.mark.parametrize("name", ["evolution", "bayes_evolution", "cem"])
def test_every_strategy_searches_the_same_twice_behind_the_filter(name: str) -> None:
    tables = [run(Filtered(find(name), "length", _length, 2), place(), 24) for _ in range(2)]
    assert tables[0] == tables[1]
    assert not all(t.origin.startswith("prior") for t in tables[0])


def test_where_no_proxy_exists_the_first_draw_stands() -> None:
    space = frame(SPACE, FACE)
    filtered = Filtered(Prior(), "none", lambda text, hash_: LOWEST)
    ask = {"maximize": True, "seed": 0, "number": 0, "redraw": 0}
    found, _ = filtered.propose(space, (), **ask)  # type: ignore[arg-type]  # by name
    assert found == Prior().propose(space, (), **ask)[0]  # type: ignore[arg-type]  # by name


@pytest.mark.skipif(sys.platform != "linux", reason="limits and forks are Linux's")
def test_a_proxy_that_fails_is_the_lowest_and_the_process_lives_on() -> None:
    text = "conv2d(dim=4, kernel=3) >> relu >> head"
    model = compile_text(text, FACE)
    with Evaluator("digits") as evaluator:
        assert Scorer(evaluator, FACE, "params", 0, 2**30)(text, "a") == model.totals.params
        score = Scorer(evaluator, FACE, "naswot", 0, 2**30)
        assert score(text, "b") > 0
        assert score("conv2d(dim=4, kernel=3) >> head", "c") == LOWEST  # no unit to look at
        pid = evaluator.ready().pid
        crash = Job("raise SystemError", 0, 0, 0.0, 0.0, proxy="naswot")
        assert evaluator.run(crash).status == "bug"
        assert evaluator.ready().pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="limits and forks are Linux's")
def test_a_search_goes_on_as_if_never_stopped_and_notes_the_proxy() -> None:
    for name in ("whole", "parts"):
        ledger(name, proxy="naswot")
    assert work("whole", 4).reason == "done"
    for trials in (2, 4):
        assert work("parts", trials).reason == "done"
    whole, parts = (ledger(name, proxy="naswot").table() for name in ("whole", "parts"))
    assert [(t.text, t.value, t.metrics["proxy"]) for t in whole] == [
        (t.text, t.value, t.metrics["proxy"]) for t in parts
    ]
    assert all("best naswot of" in t.origin for t in whole)


def test_another_proxy_is_another_question() -> None:
    ledger(proxy="params")
    with pytest.raises(StudyError, match="proxy was params, now naswot"):
        ledger(proxy="naswot")
    with pytest.raises(StudyError, match="proxy was params, now none"):
        ledger()


def test_the_command_refuses_another_proxy_and_an_unknown_one(tmp_path: Path) -> None:
    setup = setup_of(
        "vision", task="digits", strategy=None, seed=0, seed_archs=(), epochs=1, study="s",
        limits=(None, None, None), proxy="params",
    )  # fmt: skip
    create(setup, {})
    words = ["search", "vision", "--task", "digits", "--study", "s", "--epochs", "1", "--proxy"]
    for proxy, told in (("naswot", "proxy was params, now naswot"), ("naswott", "'naswott'")):
        refused = command(*words, proxy, runs=tmp_path)
        assert refused.returncode == 2
        assert told in refused.stderr


def test_the_process_of_a_card_scores_on_the_cpu_and_is_not_used_up_by_it() -> None:
    task = find_task("digits")
    source = compile_text("patch(dim=8, size=2) >> head", FACE).source
    job = Job(source=source, seed=0, epochs=0, lr=0.0, weight_decay=0.0, proxy="synflow")
    broken = replace(job, source="class Model:\n    pass\n")
    with Evaluator(task) as evaluator:
        expected = evaluator.run(job).metrics["proxy"]
    owner, child = Pipe()

    def serve() -> None:
        with suppress(EOFError):  # The owner is gone.
            # There need be no card: nothing touches it.
            zygote._run_each(child, task, task.load(0), 1, "cuda:0")

    server = Thread(target=serve)
    server.start()
    for asked in (job, broken, *[job] * zygote.JOBS):
        owner.send_bytes(json.dumps({"job": asdict(asked)}).encode())
        said, result, end = (json.loads(owner.recv_bytes()) for _ in range(3))
        assert "pid" in said
        assert end == {"exit": 0, "last": False}
        if asked is job:
            assert result["result"]["metrics"]["proxy"] == pytest.approx(expected, rel=1e-9)
        else:
            assert result["result"]["status"] == "bug"
    owner.close()
    server.join()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_proxy_is_that_of_the_cpu_and_training_goes_on_after_it() -> None:
    source = compile_text("patch(dim=8, size=2) >> head", FACE).source
    job = Job(source=source, seed=0, epochs=1, lr=1e-3, weight_decay=0.0)
    asked = replace(job, proxy="synflow", epochs=0)
    with Evaluator("digits") as cpu, Evaluator("digits", device="cuda:0") as cuda:
        one, two = (e.run(asked).metrics["proxy"] for e in (cpu, cuda))
        assert two == pytest.approx(one, rel=1e-9)
        pid = cuda.ready().pid
        assert cuda.run(job).status == "ok"
        assert cuda.run(asked).metrics["proxy"] > 0
        assert cuda.ready().pid == pid
