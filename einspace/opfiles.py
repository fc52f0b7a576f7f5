"""Which files of ops belong to this process: `--ops my_ops.py`, or the variable `EINSPACE_OPS`.

The variable (several files with the path separator between them) is how processes agree: whatever
is started from here inherits it. A study keeps each file's ref (`einspace/userfile.py`) and
`enable`s it when it is opened. Nothing is run here; `einspace/optable.py` does.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from einspace import userfile
from grammar.errors import OpError

VARIABLE = "EINSPACE_OPS"


def given() -> tuple[str, ...]:
    """The refs of the files that belong to this process. Raises: OpError where one is missing."""
    return tuple(dict.fromkeys(ref_of(name) for name in listed()))


def enable(files: Iterable[str]) -> None:
    """Adds files, paths or refs, to those of this process and of all that it starts.

    A ref whose content is there already, perhaps under another path, adds nothing.
    Raises: OpError where a path is missing.
    """
    known = list(given())
    for found in map(ref_of, files):
        if sums([found])[0] not in sums(known):
            known.append(found)
    if known:
        os.environ[VARIABLE] = os.pathsep.join(known)


def sums(refs: Iterable[str]) -> tuple[str, ...]:
    """What the contents are known by, sorted."""
    return tuple(sorted(userfile.split(ref)[1] for ref in refs))


def ref_of(name: str) -> str:
    """The ref of a path; a ref stays as it is. Raises: OpError where there is no file."""
    if userfile.MARK.fullmatch(name):
        return name
    content = content_of(Path(name).expanduser())
    return userfile.ref(Path(name).expanduser(), hashlib.sha256(content).hexdigest())


def listed() -> tuple[str, ...]:
    """The paths and refs in the variable, as they stand there."""
    return tuple(dict.fromkeys(p for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p))


def content_of(path: Path, *, asked: str = "") -> bytes:
    """What is in a file, of this sum if one is asked for. Raises: OpError."""
    hint = (
        "put it back, or name a file of that content with --ops"
        if asked
        else "name a Python file with OP"
    )
    if os.pathsep in str(path.resolve()):
        raise OpError(f"the path {path.resolve()} holds {os.pathsep!r}", hint="move the file")
    if not path.is_file():
        raise OpError(f"there is no file {str(path)[-200:]!r}", hint=hint)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OpError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    digest = hashlib.sha256(content).hexdigest()
    if asked and digest[:16] != asked:
        raise OpError(
            f"{path} has changed since it was given (sha256 {asked}..., now {digest[:16]}...)",
            hint="restore it, or give another --study name",
        )
    return content
