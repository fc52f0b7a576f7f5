"""A user's task: a Python file with `TASK`, a folder of .npy files, a table, or an entry point.

A study has to find the same task again, in its workers and when it is resumed. So a user's task
carries a `ref` (`einspace/userfile.py`), and that is what the study stores; a ref whose content has
changed is refused. A Python file is code and is run: give only what you trust.
"""

import hashlib
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from einspace import userfile
from grammar.errors import StudyError
from search.data import arrays
from search.task import Task

GROUP = "einspace.tasks"


def looks_like_path(argument: str) -> bool:
    """Whether an argument means a file or folder rather than a name."""
    suffix = argument.partition("#")[0].endswith((".py", ".csv", ".npy"))
    return suffix or "/" in argument or argument in (".", "..")


def from_path(argument: str) -> Task:
    """The task of a .py file, a folder with .npy files, a .csv or .npy table, or of a ref.

    Raises: StudyError if there is none or it is no longer the same; DataError if data are amiss.
    """
    path, asked = userfile.split(argument)
    if not path.exists():
        raise StudyError(
            f"there is no file or folder {str(path)[-200:]!r}",
            hint="put it back where the study found it" if asked else "see docs/tasks.md",
        )
    path = path.resolve()
    task, content = (
        _from_python(path) if path.suffix == ".py" and path.is_file() else arrays.task(path)
    )
    if asked and asked != content[:16]:
        raise StudyError(
            f"{path} has changed since the study was made",
            hint=f"restore it (sha256 {asked}...), or give another --study name",
        )
    return replace(task, ref=userfile.ref(path, content))


def entry_points() -> tuple[str, ...]:
    """The names that installed packages offer, sorted; nothing is imported."""
    return tuple(sorted(metadata.entry_points(group=GROUP).names))


def from_entry_point(name: str) -> Task:
    """The task that an installed package offers under this name.

    Raises: StudyError if it cannot be imported, or is no task of that name.
    """
    (found, *_) = metadata.entry_points(group=GROUP, name=name)
    try:
        task = found.load()
    except userfile.FAULTS as error:
        raise StudyError(
            f"the task {name!r} of {found.value!r} cannot be imported: {userfile.words(error)}",
            hint=f"mend or remove the package that offers it in group {GROUP!r}",
        ) from error
    checked = _checked(task, f"{found.value!r}")
    if checked.name != name:
        raise StudyError(
            f"the entry point {name!r} gives a task named {checked.name!r}",
            hint="entry point and task have the same name",
        )
    return replace(checked, ref=name)


def _from_python(path: Path) -> tuple[Task, str]:
    """The `TASK` of a file, and the sum of the very text that was run."""
    content = path.read_bytes()
    hint = "it imports what is installed, not files beside it, and defines TASK"
    module = userfile.run(path, content, kind="task", fault=StudyError, hint=hint)
    return _checked(module.__dict__.get("TASK"), str(path)), hashlib.sha256(content).hexdigest()


def _checked(task: object, where: str) -> Task:
    if not isinstance(task, Task):
        raise StudyError(
            f"{where} defines no TASK that is a search.task.Task",
            hint="docs/tasks.md shows one",
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", task.name):
        raise StudyError(
            f"the task of {where} is named {task.name!r}",
            hint="names are lower case letters, digits and _",
        )
    return task
