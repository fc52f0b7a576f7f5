"""Faults of the user: every error the command line shows without a traceback, with exit code 2.

    UserError                  message and hint
    |-- SpaceError             a text is wrong: place, fact, way out (language, types, spaces)
    |-- OpError                an op of a user's file or package cannot be used
    |-- DataError              a data package or file is missing, truncated or not what it should be
    |-- StudyError             a study, journal, lock or runs folder cannot be used
    `-- ExportError            an export folder cannot be written or verified

Anything else that escapes is our own mistake and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A text with the name under which errors show it (a file name or `<text>`)."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` (inclusive) to `end` (exclusive) of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        """Line number, from 1."""
        return self.source.text.count("\n", 0, self.start) + 1

    @property
    def column(self) -> int:
        """Column number, from 1."""
        return self.start - self.source.text.rfind("\n", 0, self.start)

    def excerpt(self) -> str:
        """The line of the span with a caret under it; long lines are cut around the caret."""
        first = self.start - self.column + 1
        newline = self.source.text.find("\n", first)
        line = self.source.text[first : newline if newline >= 0 else None].replace("\t", " ")
        at, width = self.column - 1, max(1, self.end - self.start)
        width = max(1, min(width, len(line) - at))
        cut = max(0, at - 60)
        shown = line[cut : cut + 120]
        width = max(1, min(width, len(shown) - (at - cut)))
        label = f"{self.line} | "
        return f"{label}{shown}\n{' ' * (len(label) + at - cut)}{'^' * width}"


class UserError(Exception):
    """Something the user can mend: the message says the fact, the hint the way out."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def render(self) -> str:
        """The text for a terminal."""
        return self.message + (f"\nhint: {self.hint}" if self.hint else "")

    def as_dict(self) -> dict[str, object]:
        """The shape of one entry of `errors` in `--json` output."""
        return {"message": self.message, "line": None, "column": None, "hint": self.hint}


class SpaceError(UserError):
    """A text of the language is wrong, or does not fit its task."""

    def __init__(self, message: str, *, span: Span | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.span = span

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        if self.span is None:
            return super().render()
        place = f"{self.span.source.name}:{self.span.line}:{self.span.column}"
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"{place}: {self.message}\n{self.span.excerpt()}{hint}"

    def as_dict(self) -> dict[str, object]:
        line, column = (self.span.line, self.span.column) if self.span else (None, None)
        return {"message": self.message, "line": line, "column": column, "hint": self.hint}


class OpError(UserError):
    """An op that the user brought cannot be used, or breaks the contract of ops."""


class DataError(UserError):
    """A data package or file is missing, or is not what its loader expects."""


class StudyError(UserError):
    """A study, its journal, its lock or the runs folder cannot be used."""


class ExportError(UserError):
    """An export folder cannot be written, loaded or verified."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known words, or all of them when none is near."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(words[:40])}"
