"""The tasks: every file here that defines `TASK`; the file's name is the task's name.

`find` also takes what users bring: a path or an entry point, see `search/usertask.py`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from grammar.errors import StudyError
from search import usertask
from search.task import Task


def names() -> tuple[str, ...]:
    """The names of all tasks, sorted, without importing one."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__)))


def tasks() -> Mapping[str, Task]:
    """All tasks by name; no data is read."""
    return MappingProxyType({name: find(name) for name in names()})


def find(name: str) -> Task:
    """The task of that name: a shipped one, an entry point's, or that of a path.

    A path has a "/" or ends in .py, .csv or .npy; a folder of this name is found as `./name`.
    Raises: StudyError that names the nearest tasks, or what is wrong with a user's; DataError.
    """
    known = names()
    if name not in known:
        if usertask.looks_like_path(name):
            return usertask.from_path(name)
        if name in usertask.entry_points():
            return usertask.from_entry_point(name)
        known += usertask.entry_points()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise StudyError(
            f"there is no task {name[:60]!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"tasks: {', '.join(known)}",
        )
    task = importlib.import_module(f"{__name__}.{name}").TASK
    assert isinstance(task, Task)
    assert task.name == name
    return task


def describe() -> list[dict[str, Any]]:
    """A row for each task, as `einspace tasks --json` prints it; reads no data."""
    return [
        {
            "name": t.name,
            "about": t.about,
            "inputs": {k: str(v) for k, v in t.interface.inputs.items()},
            "target": str(t.interface.target),
            "metric": t.metric,
            "direction": t.direction,
        }
        for t in tasks().values()
    ]
