"""A user's task: a Python file with `TASK`, a folder of .npy files, a table, or an entry point.

A study has to find the same task again, in its workers and when it is resumed. So a user's task
carries a `ref`, `<absolute path>#<first 16 digits of the content's sha256>`, and that is what the
study stores; a ref whose content has changed is refused. Of a Python file only its own text is
part of the sum, not what it imports. A file is read, never written to, not even a cache beside it.
Such a file is code and is run: give only what you trust.
"""

import hashlib
import re
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

from grammar.errors import StudyError
from search.data import arrays
from search.task import Task

GROUP = "einspace.tasks"
# What a file may raise while it is read; anything else keeps its traceback.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
MARK = re.compile(r"(?P<path>.+)#(?P<sum>[0-9a-f]{16})", re.DOTALL)


def looks_like_path(argument: str) -> bool:
    """Whether an argument means a file or folder rather than a name."""
    suffix = argument.partition("#")[0].endswith((".py", ".csv", ".npy"))
    return suffix or "/" in argument or argument in (".", "..")


def from_path(argument: str) -> Task:
    """The task of a .py file, a folder with .npy files, a .csv or .npy table, or of a ref.

    Raises: StudyError if there is none or it is no longer the same; DataError if data are amiss.
    """
    marked = MARK.fullmatch(argument)
    path = Path(marked["path"] if marked else argument).expanduser()
    if not path.exists():
        raise StudyError(
            f"there is no file or folder {str(path)[-200:]!r}",
            hint="put it back where the study found it" if marked else "see docs/tasks.md",
        )
    path = path.resolve()
    task, content = (
        _from_python(path) if path.suffix == ".py" and path.is_file() else arrays.task(path)
    )
    if marked and marked["sum"] != content[:16]:
        raise StudyError(
            f"{path} has changed since the study was made",
            hint=f"restore it (sha256 {marked['sum']}...), or give another --study name",
        )
    return replace(task, ref=f"{path}#{content[:16]}")


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
    except FAULTS as error:
        raise StudyError(
            f"the task {name!r} of {found.value!r} cannot be imported: {_words(error)}",
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
    digest = hashlib.sha256(content).hexdigest()
    module = ModuleType(f"einspace_task_{digest[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # Dataclasses of the file look themselves up there.
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except FAULTS as error:
        raise StudyError(
            f"{path} cannot be run: {_words(error)}{_line(error, path)}",
            hint="it imports what is installed, not files beside it, and defines TASK",
        ) from error
    return _checked(module.__dict__.get("TASK"), str(path)), digest


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


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _line(error: BaseException, path: Path) -> str:
    """The last line of the file itself that the error went through."""
    if isinstance(error, SyntaxError):
        return ""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
