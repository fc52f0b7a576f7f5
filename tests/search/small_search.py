"""A small search that the tests of the study, the workers and the resume share."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from search.study import Ledger, Setup, create
from search.worker import Ending, WorkerSpec, run_worker

SPACE = (
    "net = conv2d(dim=4|8|12|16, kernel=3|5) >> relu >> {max_pool2d(kernel=2) | relu} * 1..2 "
    ">> head;"
)
TAGS = {"seed": "0"}
SETUP = Setup(
    name="small",
    space="small",
    space_text=SPACE,
    task="digits",
    objective="acc",
    direction="maximize",
    epochs=1,
)
# A search as a process of its own: python -c DRIVER name trials workers epochs
DRIVER = """
import sys
from dataclasses import replace
from search.launch import Plan, search
from tests.search.small_search import SETUP
name, trials, workers, epochs = sys.argv[1], *map(int, sys.argv[2:])
setup = replace(SETUP, name=name, epochs=epochs, min_epochs=epochs)
outcome = search(setup, Plan(trials=trials, workers=workers, threads=1), every=0.1)
print(outcome.ending.reason)
"""


def use_runs(monkeypatch: pytest.MonkeyPatch, path: Path) -> Path:
    """Makes `path` the runs folder."""
    monkeypatch.setenv("EINSPACE_RUNS", str(path))
    return path


def ledger(name: str = "small", **changes: object) -> Ledger:
    """A new small study, with changes to its setup."""
    return create(replace(SETUP, name=name, **changes), TAGS)  # type: ignore[arg-type]  # test data


def work(name: str = "small", trials: int = 4) -> Ending:
    """A worker in this process."""
    return run_worker(WorkerSpec(study=name, trials=trials))


def driver(name: str, trials: int, workers: int, epochs: int = 1) -> list[str]:
    """The command line of a search of its own."""
    return [sys.executable, "-c", DRIVER, name, *map(str, (trials, workers, epochs))]
