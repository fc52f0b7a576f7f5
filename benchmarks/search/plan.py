"""The plan of a table: every architecture of a finite space, compiled, with the data beside it.

The folder needs no parser where it is used: it holds emitted sources and tensors, so that another
machine trains the table with torch and this checkout alone.
"""

import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from search.task import Data, Split

if TYPE_CHECKING:
    from benchmarks.search.settings import Setting


@dataclass(frozen=True, slots=True)
class Planned:
    """One architecture to train. `trace` is the first derivation that gives it, in enumeration
    order; `params` are numbers, `flops` are for one forward pass of one row."""

    id: str
    text: str
    trace: dict[str, int]
    params: int
    flops: int
    source: str


def enumerate_space(setting: "Setting") -> Iterator[Planned]:
    """The architectures of the setting's space that are distinct by id, in enumeration order.

    Raises: SpaceError if the space does not fit the task.
    """
    from einspace.candidates import frame
    from einspace.compile import compile_derivation
    from grammar.derive import derivations
    from grammar.walk import First

    place = frame(str(setting.space), setting.task.interface)
    known = set()
    for found in derivations(place.space, First(), place.typing, place.limits):
        made = compile_derivation(found, place.typing)
        if made.hash not in known:
            known.add(made.hash)
            trace = dict(found.trace)
            yield Planned(made.hash, made.text, trace, made.params, made.flops, made.source)


def write_plan(setting: "Setting", folder: Path, limit: int | None = None) -> int:
    """Enumerate, compile and write; the number of architectures. `limit`: a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = list(enumerate_space(setting))
    if limit is not None and limit < len(planned):
        planned = random.Random(0).sample(planned, limit)
    with gzip.open(folder / f"plan-{setting.name}.json.gz", "wt", encoding="utf-8") as file:
        json.dump([asdict(row) for row in planned], file)
    write_data(setting.name, setting.load(), folder)
    return len(planned)


def write_data(name: str, data: Data, folder: Path) -> None:
    """The rows of a task with where they came from; images compress to a tenth."""
    parts = {"train": data.train, "val": data.val, "test": data.test}
    tensors = {f"{part}_{k}": t for part, split in parts.items() for k, t in _pair(split)}
    content = io.BytesIO()
    torch.save(tensors, content)
    (folder / f"data-{name}.pt.gz").write_bytes(gzip.compress(content.getvalue(), mtime=0))
    about = {"provenance": data.provenance, "sha256": data.sha256, "licence": data.licence}
    (folder / f"data-{name}.json").write_text(json.dumps(about), encoding="utf-8")


def read_plan(name: str, folder: Path) -> list[Planned]:
    """The planned architectures. Raises: FileNotFoundError if the plan was not prepared."""
    with gzip.open(folder / f"plan-{name}.json.gz", "rt", encoding="utf-8") as file:
        return [Planned(**row) for row in json.load(file)]


def read_data(name: str, folder: Path) -> Data:
    """The rows that `write_data` put there."""
    content = gzip.decompress((folder / f"data-{name}.pt.gz").read_bytes())
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    about = json.loads((folder / f"data-{name}.json").read_text(encoding="utf-8"))
    splits = {p: Split(tensors[f"{p}_x"], tensors[f"{p}_y"]) for p in ("train", "val", "test")}
    return Data(**splits, **about)


def _pair(part: Split) -> tuple[tuple[str, torch.Tensor], tuple[str, torch.Tensor]]:
    # Clones: a view would be saved with the whole tensor it was cut from.
    return ("x", part.x.clone()), ("y", part.y.clone())
