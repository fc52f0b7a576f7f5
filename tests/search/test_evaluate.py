"""The warmed process and its children: every status, limits, determinism, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from einspace.load import load
from grammar.errors import StudyError
from search import limits
from search.evaluate import Evaluator, Job
from search.task import Split
from search.train import evaluate_split
from tests.search.small import TASK
from tests.search.sources import source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and forks are Linux's")


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    with Evaluator(TASK) as owned:
        yield owned


def _job(trick: str = "pass", **changes: object) -> Job:
    fields: dict[str, object] = {
        "source": source(trick),
        "seed": 0,
        "epochs": 2,
        "lr": 1e-2,
        "weight_decay": 0.01,
    }
    return Job(**{**fields, **changes})  # type: ignore[arg-type]  # the fields of Job by name


def test_the_warmed_process_has_one_thread_and_no_database(evaluator: Evaluator) -> None:
    ready = evaluator.ready()
    assert ready.threads == 1
    assert "torch" in ready.packages
    assert not {"optuna", "mlflow", "sqlalchemy", "lark"} & set(ready.packages)
    assert ready.task == "small"
    assert ready.sha256 in ready.provenance


def test_ok_reports_every_epoch_and_costs_milliseconds(evaluator: Evaluator) -> None:
    evaluator.ready()
    seen: list[tuple[int, float]] = []

    def tell(epoch: int, value: float) -> bool:
        seen.append((epoch, value))
        return False

    result = evaluator.run(_job(epochs=1), tell)
    assert result.status == "ok"
    assert seen == [(1, result.value)]
    assert result.metrics["steps"] == 20
    assert 0 < result.metrics["process_seconds"] < 0.5


def test_two_runs_of_a_job_are_equal_bit_for_bit(evaluator: Evaluator) -> None:
    first, second = (evaluator.run(_job()) for _ in range(2))
    assert first.status == "ok"
    assert first.curves == second.curves
    assert first.curves != evaluator.run(_job(seed=1)).curves


def test_pruned_where_the_report_says_so(evaluator: Evaluator) -> None:
    result = evaluator.run(_job(epochs=5), lambda epoch, value: epoch == 2)
    assert result.status == "pruned"
    assert result.metrics["epochs"] == 2


def test_nan_is_a_status(evaluator: Evaluator) -> None:
    result = evaluator.run(_job("y = y / y.new_zeros(())"))
    assert (result.status, result.value) == ("nan", None)
    assert evaluator.run(_job(lr=1e38)).status == "nan"


@pytest.mark.parametrize(
    "big", ["torch.ones(2**25)", "bytearray(2**27)", "[x.new_ones(2**18) for _ in range(128)]"]
)
def test_more_memory_than_allowed_is_oom(evaluator: Evaluator, big: str) -> None:
    trick = f"self.big = self.__dict__.get('big') or [{big}]"
    result = evaluator.run(_job(trick, memory_bytes=64 * 2**20))
    assert (result.status, result.value) == ("oom", None), result.error
    assert evaluator.run(_job(trick, memory_bytes=2**29, epochs=1)).status == "ok"


def test_a_child_that_takes_too_long_is_a_timeout(evaluator: Evaluator) -> None:
    before = time.monotonic()
    result = evaluator.run(_job("time.sleep(60)", wall_seconds=0.5))
    assert result.status == "timeout"
    assert "0.5 s" in result.error
    assert time.monotonic() - before < 5


def test_time_spent_in_the_report_does_not_count(evaluator: Evaluator) -> None:
    def dawdle(epoch: int, value: float) -> bool:
        time.sleep(0.6)
        return False

    result = evaluator.run(_job(epochs=3, wall_seconds=1.2), dawdle)
    assert result.status == "ok"


def test_a_killed_child_leaves_the_warmed_process_alive(evaluator: Evaluator) -> None:
    parent = evaluator.ready().pid

    def kill(epoch: int, value: float) -> bool:
        assert evaluator.child is not None
        os.kill(evaluator.child, signal.SIGKILL)
        return False

    result = evaluator.run(_job(), kill)
    assert (result.status, result.value) == ("killed", None)
    assert "SIGKILL" in result.error
    assert evaluator.run(_job("os.kill(os.getpid(), 11)")).error == "ended by SIGSEGV"
    assert evaluator.run(_job()).status == "ok"
    assert evaluator.ready().pid == parent


def test_a_fault_of_the_code_is_a_bug_with_its_line(evaluator: Evaluator) -> None:
    result = evaluator.run(_job("y = y @ self.missing"))
    assert result.status == "bug"
    assert "y = y @ self.missing" in result.error
    assert "AttributeError" in result.error
    assert evaluator.run(_job("os._exit(3)")).status == "bug"


def test_a_space_error_is_invalid(evaluator: Evaluator) -> None:
    trick = "from grammar.errors import SpaceError; raise SpaceError('does not fit', hint='mend')"
    result = evaluator.run(_job(trick))
    assert (result.status, result.error) == ("invalid", "does not fit\nhint: mend")


def test_an_exception_in_the_report_ends_the_child_and_passes(evaluator: Evaluator) -> None:
    child: list[int] = []

    def fail(epoch: int, value: float) -> bool:
        child.append(evaluator.child or 0)
        raise KeyboardInterrupt

    start = time.time()
    with pytest.raises(KeyboardInterrupt):
        evaluator.run(_job(), fail)
    assert _gone({child[0]: start}, seconds=2)
    assert evaluator.run(_job()).status == "ok"


def test_the_evaluator_survives_the_death_of_the_warmed_process(evaluator: Evaluator) -> None:
    def kill(epoch: int, value: float) -> bool:
        os.kill(evaluator.ready().pid, signal.SIGKILL)
        return False

    assert evaluator.run(_job(), kill).status == "killed"
    assert evaluator.run(_job()).status == "ok"


def test_a_final_job_measures_the_test_and_writes_the_trained_weights(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    result = evaluator.run(_job(split="final", weights=str(path)))
    assert result.status == "ok"
    assert "val_acc" not in result.curves
    model = load(source())()
    model.load_state_dict(load_file(path))
    data = TASK.load(0)
    assert evaluate_split(model, TASK, data.test, 128) == result.value
    assert evaluate_split(model, TASK, Split(data.test.x, 9 - data.test.y), 128) != result.value


def test_threads_are_set_in_the_child(evaluator: Evaluator) -> None:
    trick = "assert torch.get_num_threads() == 2"
    assert evaluator.run(_job(trick, threads=2, epochs=1)).status == "ok"
    assert evaluator.run(_job(trick, epochs=1)).status == "bug"


def test_a_wrong_task_is_the_users_error() -> None:
    with (
        Evaluator("digit") as evaluator,
        pytest.raises(StudyError, match="there is no task 'digit'") as caught,
    ):
        evaluator.ready()
    assert "did you mean digits?" in caught.value.hint


def test_nothing_outlives_a_killed_owner() -> None:
    owner = subprocess.Popen([sys.executable, "-m", "tests.search.owner"], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        pids = [int(word) for word in owner.stdout.readline().split()]
    starts = {pid: limits.process_start_time(pid) or 0.0 for pid in pids}
    assert len(starts) == 3
    assert all(limits.is_alive(pid, start) for pid, start in starts.items())
    owner.kill()
    owner.wait()
    assert _gone(starts, seconds=2)


def _gone(starts: dict[int, float], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(limits.is_alive(pid, start) for pid, start in starts.items()):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_process_is_known_by_number_and_start() -> None:
    start = limits.process_start_time(os.getpid())
    assert start is not None
    assert limits.is_alive(os.getpid(), start)
    assert not limits.is_alive(os.getpid(), start - 60)
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    assert limits.process_start_time(done.pid) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_one_process_runs_jobs_until_one_fails() -> None:
    with Evaluator(TASK, device="cuda:0") as evaluator:
        first, second = evaluator.run(_job()), evaluator.run(_job())
        pid = evaluator.ready().pid
        assert (first.status, second.status) == ("ok", "ok")
        assert (first.engine, second.engine) == ("captured", "captured")
        assert first.value is not None
        assert first.metrics["peak_bytes"] > 0
        assert evaluator.ready().pid == pid
        assert evaluator.run(_job(), lambda epoch, value: True).status == "pruned"
        assert evaluator.ready().pid == pid
        big = "self.big = x.new_zeros(2**30)"
        assert evaluator.run(_job(big, memory_bytes=2**30)).status == "oom"
        assert evaluator.ready().pid != pid
        assert evaluator.run(_job("time.sleep(60)", wall_seconds=1.0)).status == "timeout"
        assert evaluator.run(_job("raise ValueError")).status == "bug"
        assert evaluator.run(_job()).status == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_processes_share_the_card_each_within_its_memory() -> None:
    with (
        Evaluator(TASK, device="cuda:0") as one,
        Evaluator(TASK, device="cuda:0") as two,
        ThreadPoolExecutor(2) as pool,
    ):
        assert one.ready().pid != two.ready().pid
        done = list(pool.map(lambda e: e.run(_job(memory_bytes=2**31)), (one, two)))
    assert [(r.status, r.engine) for r in done] == [("ok", "captured")] * 2
    assert all(0 < r.metrics["peak_bytes"] < 2**31 for r in done)
