"""The finished table of one task: what every architecture of its space was worth.

`pack` joins plan and shards into one gzipped JSON file: `about` says how it was made, `columns`
names the entries of a row, `rows` are sorted by id. A training that did not end well has status
other than "ok" and an empty curve. `read` gives it back typed.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.plan import Planned, read_data, read_plan
from benchmarks.search.settings import Setting, settings

RESULTS = Path(__file__).parents[1] / "results" / "search"
COLUMNS = ("id", "text", "params", "flops", "status", "curves", "test", "seconds")
SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture. Per seed: status, metric on validation after each epoch, metric on the
    test part, CPU seconds. `params` are numbers, `flops` of one row's forward pass."""

    id: str
    text: str
    params: int
    flops: int
    status: tuple[str, ...]
    curves: tuple[tuple[float, ...], ...]
    test: tuple[float | None, ...]
    seconds: tuple[float, ...]

    def value(self, epoch: int = -1) -> float | None:
        """The mean over the seeds that reached this epoch (-1: the last); None if none did."""
        done = [c[epoch] for c in self.curves if c and (epoch == -1 or epoch < len(c))]
        return sum(done) / len(done) if done else None


@dataclass(frozen=True, slots=True)
class Table:
    """All entries of a task by id."""

    about: Mapping[str, Any]
    entries: Mapping[str, Entry]

    def best(self) -> float:
        """The highest final value in the table."""
        return max(v for v in (e.value() for e in self.entries.values()) if v is not None)


def pack(
    name: str,
    kit: Path,
    found: Mapping[tuple[str, str, int], Mapping[str, Any]],
    results: Path = RESULTS,
    machine: str = "",
) -> str:
    """Write `<results>/<name>.json.gz` and say how complete it is.

    Architectures with no training at all are left out; with one seed of two they stand with that.
    """
    planned = read_plan(name, kit)
    rows = [_row(name, plan, found) for plan in sorted(planned, key=lambda p: p.id)]
    kept = [row for row in rows if row is not None]
    whole = sum(len(row[5]) == len(SEEDS) for row in kept)
    about = {**_about(settings()[name], kit), "planned": len(planned), "trained": len(kept)}
    about["machine"] = machine
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json.gz"
    text = json.dumps({"about": about, "columns": COLUMNS, "rows": kept}, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    size = path.stat().st_size
    return f"{name}: {len(kept)}/{len(planned)} architectures, {whole} with two seeds, {size:,} B"


def read(name: str, results: Path = RESULTS) -> Table:
    """The packed table. Raises: FileNotFoundError, or ValueError for another format."""
    content = json.loads(gzip.decompress((results / f"{name}.json.gz").read_bytes()))
    if tuple(content["columns"]) != COLUMNS:
        raise ValueError(f"the table of {name} has columns {content['columns']}, not {COLUMNS}")
    entries = {}
    for id_, text, params, flops, status, curves, test, seconds in content["rows"]:
        entries[id_] = Entry(
            id_,
            text,
            params,
            flops,
            tuple(status),
            tuple(map(tuple, curves)),
            tuple(test),
            tuple(seconds),
        )
    return Table(content["about"], entries)


def unpack(name: str, out: Path, results: Path = RESULTS) -> int:
    """Write the packed trainings as a shard, so that `run` does the missing ones only; how many.

    Of an architecture with one training that is the one with the first seed: it is done first.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "task": name,
            "id": entry.id,
            "seed": seed,
            "status": s,
            "curve": c,
            "test": t,
            "seconds": n,
        }
        for entry in read(name, results).entries.values()
        for seed, s, c, t, n in zip(
            SEEDS, entry.status, entry.curves, entry.test, entry.seconds, strict=False
        )
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / f"shard-0-{name}.jsonl").write_text(text, encoding="utf-8")
    return len(lines)


def _row(
    name: str, plan: Planned, found: Mapping[tuple[str, str, int], Mapping[str, Any]]
) -> list[object] | None:
    mine = [found[name, plan.id, s] for s in SEEDS if (name, plan.id, s) in found]
    if not mine:
        return None
    return [
        plan.id,
        plan.text,
        plan.params,
        plan.flops,
        [row["status"] for row in mine],
        [row["curve"] for row in mine],
        [row.get("test") for row in mine],
        [row["seconds"] for row in mine],
    ]


def _about(setting: Setting, kit: Path) -> dict[str, object]:
    data, task = read_data(setting.name, kit), setting.task
    return {
        "task": setting.name,
        "metric": task.metric,
        "direction": task.direction,
        "space": setting.space.read_text(encoding="utf-8"),
        "epochs": task.budget.epochs,
        "batch": task.budget.batch,
        "steps_per_epoch": task.steps_per_epoch or len(data.train) // task.budget.batch,
        "lr": setting.lr,
        "weight_decay": setting.weight_decay,
        "rows": [len(data.train), len(data.val), len(data.test)],
        "data": data.provenance,
        "licence": data.licence,
        "seeds": SEEDS,
    }
