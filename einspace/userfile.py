"""A user's Python file: run once, known by the sum of the very text that was run.

A `ref`, `<absolute path>#<first 16 digits of the content's sha256>`, is what a study stores to find
the same file again. Only the file's own text is part of the sum, not what it imports. A file is
read, never written to, not even a cache beside it. It is code and is run: give only what you trust.
"""

import hashlib
import linecache
import re
import sys
from pathlib import Path
from types import ModuleType

from grammar.errors import UserError

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
    SystemExit,
    TypeError,
    ValueError,
)
MARK = re.compile(r"(?P<path>.+)#(?P<sum>[0-9a-f]{16})", re.DOTALL)


def split(argument: str) -> tuple[Path, str]:
    """The path of a path or ref, and the sum that the ref asks for, "" of a path."""
    marked = MARK.fullmatch(argument)
    path = marked["path"] if marked else argument
    return Path(path).expanduser(), marked["sum"] if marked else ""


def ref(path: Path, digest: str) -> str:
    """What a study stores of a file with this sha256."""
    return f"{path.resolve()}#{digest[:16]}"


def run(path: Path, content: bytes, *, kind: str, fault: type[UserError], hint: str) -> ModuleType:
    """The file as a module, its `content` run. Tracebacks and `inspect` show that very text.

    Raises: `fault` with what went wrong and the line.
    """
    digest = hashlib.sha256(content).hexdigest()
    module = ModuleType(f"einspace_{kind}_{digest[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # Classes of the file look themselves up there.
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except FAULTS as error:
        del sys.modules[module.__name__]
        raise fault(
            f"{path} cannot be run: {words(error)}{line_of(error, path)}", hint=hint
        ) from error
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[str(path)] = (len(content), None, lines, str(path))
    return module


def words(error: BaseException) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {str(error)[:300]}"


def line_of(error: BaseException, path: Path) -> str:
    """The last line of the file itself that the error went through."""
    if isinstance(error, SyntaxError):
        return ""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
