"""What is shipped: spaces and seeds by name, and how a SPACE or TEXT argument is resolved.

An argument is, in this order, an existing path, a shipped name, inline text. The first comment
line of a shipped file is its description; a line `# task: NAME` gives its default task.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from grammar.errors import Source, SpaceError

MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Shipped:
    """A shipped text."""

    name: str
    about: str
    task: str | None
    text: str


def shipped(kind: Literal["spaces", "seeds"]) -> Mapping[str, Shipped]:
    """All shipped spaces or seeds by name."""
    found = {}
    for item in sorted((resources.files("einspace") / kind).iterdir(), key=lambda f: f.name):
        if item.name.endswith((".space", ".arch")):
            text = item.read_text(encoding="utf-8")
            name = item.name.rsplit(".", 1)[0]
            about = text.splitlines()[0].lstrip("# ").strip() if text.startswith("#") else ""
            task = re.search(r"^# task: *(\w+)", text, re.MULTILINE)
            found[name] = Shipped(name, about, task[1] if task else None, text)
    return found


def resolve(argument: str) -> tuple[Source, str | None]:
    """The text that an argument means, and its default task. Raises: SpaceError."""
    if len(argument) < 4096 and "\n" not in argument and "\0" not in argument:
        path = Path(argument)
        if path.is_file():
            return _read(path)
    for kind in ("spaces", "seeds"):
        known = shipped("spaces" if kind == "spaces" else "seeds").get(argument)
        if known is not None:
            suffix = "space" if kind == "spaces" else "arch"
            return Source(f"{argument}.{suffix}", known.text), known.task
    if re.search(r"\.(space|arch)$", argument.strip()):
        names = ", ".join([*shipped("spaces"), *shipped("seeds")])
        raise SpaceError(f"there is no file {argument.strip()[-80:]!r}", hint=f"shipped: {names}")
    return Source("<text>", argument), None


def _read(path: Path) -> tuple[Source, str | None]:
    if path.stat().st_size > MAX_BYTES:
        raise SpaceError(f"{path.name} is larger than 256 KB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpaceError(f"{path.name} is not UTF-8 text") from None
    task = re.search(r"^# task: *(\w+)", text, re.MULTILINE)
    return Source(path.name, text), task[1] if task else None


def space_source(argument: str) -> Source:
    """`resolve` without the task."""
    return resolve(argument)[0]
