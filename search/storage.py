"""Where studies live: the runs folder, one Optuna journal per study, or a PostgreSQL URL.

    runs/<study>/journal.log      the study: queue, ledger and truth
    runs/<study>/journal.flock    held for the length of one append
    runs/<study>/claim.lock       held while a worker takes its next trial
    runs/<study>/coordinator.lock held by the one `search` that runs this study

All three locks are `flock`s: the kernel drops them with their process, so a kill -9 leaves no
stale lock behind (Optuna's own symlink lock makes everybody wait 30 s).
"""

import difflib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from grammar.errors import StudyError

NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")
JOURNAL = "journal.log"
LAST_OPERATION = 10


def runs_dir() -> Path:
    """`$EINSPACE_RUNS`, else `runs` under the current folder."""
    return Path(os.environ.get("EINSPACE_RUNS") or "runs")


def check_name(name: str) -> str:
    """The name of a study, if it can be the name of a folder. Raises: StudyError."""
    if not NAME.fullmatch(name) or set(name) == {"."}:
        raise StudyError(
            f"{name[:100]!r} cannot name a study",
            hint="use 1 to 80 letters, digits, dots, dashes or underscores",
        )
    return name


def study_dir(name: str, *, create: bool = False) -> Path:
    """The folder of a study. Raises: StudyError for a bad name or an unwritable runs folder."""
    folder = runs_dir() / check_name(name)
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _unwritable(folder, PermissionError("no write permission"))
    return folder


def _unwritable(folder: Path, error: OSError) -> StudyError:
    return StudyError(
        f"cannot write to {folder}: {error.strerror or error}",
        hint="set EINSPACE_RUNS to a folder you may write to",
    )


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on `path`; with `wait=False` gives False when another has it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


class JournalLock:
    """The lock Optuna takes around each append; taking it also mends a half-written last line.

    A process killed inside an append leaves a line without its newline, and the next record would
    be glued to it and both lost.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = journal.with_suffix(".flock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with self._journal.open("r+b") as file:
                cut_tail(file)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Journal(JournalFileBackend):
    """Optuna's journal; a record that cannot be written is an error that ends the search.

    A worker that dies of it would only be replaced by another one that dies of it.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises: StudyError, such as for a full disk."""
        try:
            super().append_logs(logs)
        except OSError as error:
            raise StudyError(
                f"cannot write to {self._file_path}: {error.strerror or error}",
                hint="make room or mend the folder, then run the same command again to go on",
            ) from error


def cut_tail(file: BinaryIO) -> int:
    """Cuts an unfinished last record off; gives the bytes cut. The caller holds the lock."""
    size = end = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return 0
    newline = -1
    while end > 0 and newline < 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        newline, end = (start + newline, start) if newline >= 0 else (-1, start)
    file.seek(newline + 1)
    if not file.read(1).startswith(b"{"):  # Not the start of a record: not ours to cut.
        raise StudyError(f"{file.name} does not end in a journal record", hint=_way_out(file.name))
    file.truncate(newline + 1)
    return size - newline - 1


def _way_out(journal: str, line: int = 0) -> str:
    keep = f"; `head -n {line - 1} {journal}` prints the part before the damage" if line > 1 else ""
    return f"nothing was changed: restore the file from a copy, or choose another --study{keep}"


def check_journal(journal: Path) -> None:
    """Raises: StudyError naming file and line where a finished line is not a journal record."""
    with journal.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and not _is_record(line):
                raise StudyError(
                    f"{journal}:{number}: the journal is corrupted: not a journal record",
                    hint=_way_out(str(journal), number),
                )


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    code = record.get("op_code") if isinstance(record, dict) else None
    return isinstance(code, int) and 0 <= code <= LAST_OPERATION and "worker_id" in record


def journal_storage(folder: Path) -> JournalStorage:
    """The journal in `folder`, checked and mended. Raises: StudyError."""
    journal, lock = folder / JOURNAL, JournalLock(folder / JOURNAL)
    try:
        journal.touch()
        check_journal(journal)
        lock.acquire()
        lock.release()
        # JournalLock has the two methods Optuna calls; its base class is not public.
        return JournalStorage(Journal(str(journal), lock_obj=lock))  # type: ignore[arg-type]
    except OSError as error:
        raise _unwritable(folder, error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{journal}: the journal is corrupted: a record cannot be replayed ({error!r})",
            hint=_way_out(str(journal)),
        ) from error


def database_storage(url: str) -> RDBStorage:
    """The database behind `url`. Raises: StudyError when it cannot be reached."""
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise StudyError(
            f"the driver of this database is not installed: {error}",
            hint="pip install 'psycopg[binary]' and write postgresql+psycopg://...",
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(
            f"cannot open the database: {reason}", hint="check host, user and password in --storage"
        ) from error


def open_storage(name: str, url: str | None = None, *, create: bool = False) -> BaseStorage:
    """The storage that holds study `name`. Raises: StudyError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = study_dir(name, create=create)
    if url is None:
        if not create and not (folder / JOURNAL).is_file():
            raise unknown_study(name, known_studies())
        return journal_storage(folder)
    if not re.match(r"postgresql(\+\w+)?://", url):
        raise StudyError(
            f"{url.split('://')[0]!r} is not a storage for studies",
            hint="leave --storage away for a journal file, or give postgresql://user@host/database",
        )
    study_dir(name, create=True)  # Locks and worker logs stay local.
    return database_storage(url)


def known_studies() -> list[str]:
    """The studies of the runs folder, by name."""
    root = runs_dir()
    try:
        return sorted(p.parent.name for p in root.glob(f"*/{JOURNAL}"))
    except OSError:
        return []


def unknown_study(name: str, known: Sequence[str]) -> StudyError:
    """The error for a study that is not there."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(list(known)[:10]) or "none yet"
    mean = f"did you mean {close[0]!r}? " if close else ""
    return StudyError(
        f"there is no study {name!r}", hint=f"{mean}studies in {runs_dir()}: {listed}"
    )
