"""The table: every architecture of a finite space trained with two seeds, in parallel, resumable.

Prepare the folder that is carried, here (needs the whole environment and the data packages):

    python -m benchmarks.search.table prepare --kit build/table-kit

Train, on a machine with many cores (needs torch and numpy alone); again to go on where it stopped:

    python -u -m benchmarks.search.table run --kit build/table-kit --out build/table \
        --jobs 16 --minutes 9

A packed table that is not whole is taken up again by writing its shards first, here:

    python -m benchmarks.search.table unpack --task mad_recall --out build/table

Pack the shards into the files that are committed, and say what they show:

    python -m benchmarks.search.table pack --kit build/table-kit --out build/table \
        --results benchmarks/results/search

A worker is a fork of one warm process (torch imported, data in memory, one thread). It appends a
line to its own shard when a training ends, so `kill -9` costs the trainings in progress alone: a
torn last line is not read, and nobody appends to an old shard. First all architectures with seed
0, then all with seed 1, tasks in turn, so that a table cut short still covers the spaces.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import FrameType

import torch

from benchmarks.search.plan import Planned, read_data, read_plan
from benchmarks.search.settings import Setting, settings
from einspace.load import load
from search.task import Data
from search.train import evaluate_split, train

SEEDS = (0, 1)
LIMIT = 60  # seconds of one training before it counts as too slow
EVERY = 10.0  # seconds between lines of progress


class TooSlow(Exception):
    """One training took longer than its limit."""


@dataclass(frozen=True, slots=True)
class Item:
    """One training to do."""

    task: str
    index: int
    seed: int


@dataclass(frozen=True, slots=True)
class Bench:
    """What a worker needs of one task, in memory before the fork."""

    setting: Setting
    data: Data
    planned: Sequence[Planned]


def train_one(bench: Bench, planned: Planned, seed: int) -> dict[str, object]:
    """Train one architecture: its status, curve on validation, test metric and CPU seconds."""
    start = time.process_time()
    setting, task = bench.setting, bench.setting.task
    torch.manual_seed(seed)
    model = load(planned.source)()
    result = train(
        model,
        task,
        bench.data,
        seed=seed,
        epochs=task.budget.epochs,
        lr=setting.lr,
        weight_decay=setting.weight_decay,
    )
    test = None
    if result.status == "ok":
        test = round(evaluate_split(model, task, bench.data.test, task.budget.batch * 4), 5)
    curve = [round(v, 5) for v in result.curves.get(f"val_{task.metric}", ())]
    return {
        "status": result.status,
        "curve": curve,
        "test": test,
        "loss": [round(v, 4) for v in result.curves.get("train_loss", ())],
        "seconds": round(time.process_time() - start, 3),
    }


def finished(out: Path) -> dict[tuple[str, str, int], dict[str, object]]:
    """All trainings in the shards by (task, id, seed); a torn line is no training."""
    found: dict[tuple[str, str, int], dict[str, object]] = {}
    for shard in sorted(out.glob("shard-*.jsonl")):
        for line in shard.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            found.setdefault((row["task"], row["id"], row["seed"]), row)
    return found


def todo(benches: dict[str, Bench], done: set[tuple[str, str, int]]) -> list[Item]:
    """What is left, seed by seed, tasks in turn, the architectures of a task in random order."""
    items: list[Item] = []
    for seed in SEEDS:
        queues = []
        for name, bench in benches.items():
            order = list(range(len(bench.planned)))
            random.Random(name).shuffle(order)
            left = [i for i in order if (name, bench.planned[i].id, seed) not in done]
            queues.append([Item(name, i, seed) for i in left])
        items += [item for turn in zip_longest(*queues) for item in turn if item is not None]
    return items


def _alarm(signum: int, frame: FrameType | None) -> None:
    raise TooSlow


def work(
    benches: dict[str, Bench],
    items: Sequence[Item],
    shard: Path,
    following: "Synchronized[int]",
    mine: "Synchronized[int]",
    deadline: float,
    parent: int,
) -> None:
    """Take items until none is left or the time is up; `mine` is the one being trained, or -1."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _alarm)
    with shard.open("a", encoding="utf-8", buffering=1) as file:
        # A killed run leaves nobody behind who trains on.
        while time.monotonic() < deadline and os.getppid() == parent:
            with following.get_lock():
                number = following.value
                following.value += 1
            if number >= len(items):
                return
            mine.value = number
            item = items[number]
            bench = benches[item.task]
            planned = bench.planned[item.index]
            try:
                signal.alarm(LIMIT)
                row = train_one(bench, planned, item.seed)
            except TooSlow:
                row = {"status": "timeout", "curve": [], "seconds": LIMIT}
            finally:
                signal.alarm(0)
            file.write(json.dumps(_named(item, planned, row)) + "\n")
            mine.value = -1


def _named(item: Item, planned: Planned, row: dict[str, object]) -> dict[str, object]:
    return {"task": item.task, "id": planned.id, "seed": item.seed, **row}


class Crew:
    """The workers. One that dies leaves a `bug` row for what it trained, and is replaced."""

    def __init__(
        self, benches: dict[str, Bench], items: Sequence[Item], out: Path, deadline: float
    ) -> None:
        self.benches, self.items, self.out, self.deadline = benches, items, out, deadline
        self.context = multiprocessing.get_context("fork")
        self.following = self.context.Value(ctypes.c_long, 0)
        self.made = 0
        self.members: list[tuple[multiprocessing.Process, Synchronized[int]]] = []
        self.stamp = f"{time.time_ns():x}"

    def _shard(self) -> Path:
        self.made += 1
        return self.out / f"shard-{self.stamp}-{self.made:03}.jsonl"

    def add(self) -> None:
        """Fork one more worker."""
        mine = self.context.Value(ctypes.c_long, -1)
        shared = (self._shard(), self.following, mine, self.deadline, os.getpid())
        process = self.context.Process(
            target=work, args=(self.benches, self.items, *shared), daemon=True
        )
        process.start()
        self.members.append((process, mine))  # type: ignore[arg-type]  # a fork's Process is one

    def mend(self) -> int:
        """Replace workers that died; how many are at work."""
        for member in list(self.members):
            process, mine = member
            if process.is_alive():
                continue
            self.members.remove(member)
            if process.exitcode != 0:
                if mine.value >= 0:
                    item = self.items[mine.value]
                    planned = self.benches[item.task].planned[item.index]
                    row = _named(item, planned, {"status": "bug", "curve": [], "seconds": 0.0})
                    self._shard().write_text(json.dumps(row) + "\n", encoding="utf-8")
                print(f"a worker ended with {process.exitcode}", flush=True)
                self.add()
        return len(self.members)

    def taken(self) -> int:
        """How many items were handed out."""
        return min(self.following.value, len(self.items))


def run(kit: Path, out: Path, names: Sequence[str], jobs: int, minutes: float) -> int:
    """Train what is missing until the time is up; how many trainings are still missing."""
    # Autograd's device threads, which a CUDA build starts at the first backward, forbid forks.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    start = time.monotonic()
    deadline = start + 60 * minutes
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    chosen = settings()
    benches = {n: Bench(chosen[n], read_data(n, kit), read_plan(n, kit)) for n in names}
    items = todo(benches, set(finished(out)))
    print(f"{len(items)} trainings to do, {jobs} workers, {minutes:g} minutes", flush=True)
    for name, bench in benches.items():  # warm: allocator, oneDNN and the optimiser's first step
        row = train_one(bench, bench.planned[0], 0)
        print(f"{name}: {len(bench.planned)} architectures, the first {row}", flush=True)
    crew = Crew(benches, items, out, deadline)
    for _ in range(min(jobs, len(items))):
        crew.add()
    shown = 0.0
    while crew.mend():
        time.sleep(0.2)
        passed = time.monotonic() - start
        if passed - shown >= EVERY:
            shown = passed
            rate = crew.taken() / passed
            left = (len(items) - crew.taken()) / max(rate, 1e-9) / 60
            print(
                f"{passed:6.0f} s  {crew.taken()}/{len(items)}  {rate:.1f}/s  {left:.1f} min left",
                flush=True,
            )
    missing = len(todo(benches, set(finished(out))))
    print(f"{missing} trainings missing after {time.monotonic() - start:.0f} s", flush=True)
    return missing


def _names(text: str) -> list[str]:
    known = settings()
    chosen = list(known) if text == "all" else text.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no setting {name!r}: {', '.join(known)}")
    return chosen


def _arguments() -> Iterator[argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "run", "unpack", "pack"))
    parser.add_argument("--kit", type=Path, default=Path("build/table-kit"))
    parser.add_argument("--out", type=Path, default=Path("build/table"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/search"))
    parser.add_argument("--task", default="all", help="names with commas between")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--machine", default="", help="pack: where and when it was trained")
    parser.add_argument("--limit", type=int, help="prepare: this many architectures a task")
    yield parser


def main() -> None:
    args = next(_arguments()).parse_args()
    names = _names(args.task)
    if args.what == "prepare":
        from benchmarks.search.plan import write_plan

        for name in names:
            count = write_plan(settings()[name], args.kit, args.limit)
            print(f"{name}: {count} architectures", flush=True)
    elif args.what == "run":
        run(args.kit, args.out, names, args.jobs, args.minutes)
    elif args.what == "unpack":
        from benchmarks.search.tabular import unpack

        for name in names:
            print(f"{name}: {unpack(name, args.out, args.results)} trainings", flush=True)
    else:
        from benchmarks.search.tabular import pack

        for name in names:
            print(pack(name, args.kit, finished(args.out), args.results, args.machine), flush=True)


if __name__ == "__main__":
    main()
