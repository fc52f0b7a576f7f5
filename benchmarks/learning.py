"""Which sequence op learns to recall? Two layers of each on MQAR and on MAD's in-context recall.

    python -u -m benchmarks.learning run --out build/learning [--ops a,b] [--minutes 9] [--smoke]
    python -m benchmarks.learning page --out build/learning

Model: embed(dim=64), learned positions, two blocks of (op, SwiGLU) with pre-norm residuals, norm,
linear read-out at the labelled tokens alone (the same numbers as a head over all of them).
MQAR: V = 8192, 64 tokens, 4 pairs (Arora et al. 2023, arXiv:2312.04927); MAD recall: 16 symbols,
128 tokens (Poli et al. 2024, arXiv:2403.17844). Batch 256, AdamW, at most 3,000 steps, learning
rates 3e-3, 1e-3, 1e-2 in turn until one reaches 99 % on held-out rows; the best is reported.

On a GPU the step (rows drawn, forward, backward, clip, AdamW, schedule) is captured as one CUDA
graph, and several runs share a card, each on a stream of its own; an op whose step cannot be
captured trains eagerly and its row says so. Every finished run is a line in `<out>/runs.jsonl`,
so the same command goes on where it stopped. On the CPU, `--smoke` trains 20 steps a run.
"""

import argparse
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.learning_ops import EXAMPLES
from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from grammar.errors import SpaceError
from ops.spec import tokens
from search.capture import NotCapturable, record
from search.data import mad
from search.scores import IGNORE
from search.tasks import mqar

RATES = (3e-3, 1e-3, 1e-2)
BATCH, STEPS, WARM, EVERY, SOLVED = 256, 3000, 150, 250, 0.99
BLOCK = "residual(rms_norm >> {op}) >> residual(rms_norm >> swiglu(mult=2))"
TEXT = "embed(dim=64) >> pos_enc(kind=learned) >> " + f"({BLOCK}) * 2 >> rms_norm"


@dataclass(frozen=True, slots=True)
class Rows:
    """x [N, T]; the labelled places [N, L] and their labels [N, L] (IGNORE where there is none)."""

    x: Tensor
    place: Tensor
    label: Tensor

    def to(self, device: torch.device) -> "Rows":
        return Rows(self.x.to(device), self.place.to(device), self.label.to(device))

    def __getitem__(self, rows: Tensor | slice) -> "Rows":
        return Rows(self.x[rows], self.place[rows], self.label[rows])


@dataclass(frozen=True, slots=True)
class Probe:
    """A task: its vocabulary, length and rows."""

    vocab: int
    length: int
    train: Rows
    test: Rows


def _labelled(x: Tensor, y: Tensor) -> Rows:
    most = int((y != IGNORE).sum(1).max())
    place = (y != IGNORE).int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return Rows(x, place, y.gather(1, place))


def probes(train: int, test: int) -> dict[str, Probe]:
    """Both tasks, from seed 0."""
    generator = torch.Generator().manual_seed(0)
    parts = [mqar.generate(n, 8192, 64, 4, generator=generator) for n in _chunks(train + test)]
    x, y = (torch.cat(column) for column in zip(*parts, strict=True))
    rows = _labelled(x, y)
    found = {"mqar": Probe(8192, 64, rows[slice(train)], rows[slice(train, train + test)])}
    fit = mad.recall(train, 16, 128, all_labels=True, generator=generator)
    held = mad.recall(test, 16, 128, all_labels=False, generator=generator)
    found["mad_recall"] = Probe(16, 128, _labelled(*fit), _labelled(*held))
    return found


def _chunks(total: int, most: int = 4096) -> list[int]:
    return [min(most, total - at) for at in range(0, total, most)]


def body_source(op: str, probe: Probe) -> str:
    """The emitted file of the model without its read-out. Raises: SpaceError."""
    interface = Interface({"x": tokens(probe.length, probe.vocab)}, causal=True)
    return compile_text(TEXT.format(op=op), interface).source


class Run:
    """One op on one task with one learning rate."""

    def __init__(self, source: str, probe: Probe, rate: float, steps: int, device: torch.device):
        torch.manual_seed(0)
        self.device, self.probe = device, probe
        self.body = load(source)().to(device)
        self.read = nn.Linear(64, probe.vocab).to(device)
        self.params = [*self.body.parameters(), *self.read.parameters()]
        self.count = torch.zeros((), dtype=torch.long, device=device)
        self.rate = torch.tensor(rate, device=device)
        self.peak, self.steps = rate, steps
        self.optimiser = torch.optim.AdamW(
            self.params, lr=self.rate, weight_decay=0.1, capturable=device.type == "cuda"
        )
        self.rows = torch.arange(BATCH, device=device)
        self.loss = torch.zeros((), device=device)

    def logits(self, rows: Rows) -> tuple[Tensor, Tensor, Any]:
        y, aux, stats = self.body.forward_aux(rows.x)
        at = rows.place[..., None].expand(-1, -1, y.shape[-1])
        return self.read(y.gather(1, at)), aux, stats

    def step(self) -> None:
        """One training step; reads nothing back."""
        done = self.count / self.steps
        warm = (self.count + 1) / WARM
        self.rate.copy_(self.peak * torch.minimum(warm, 0.5 * (1 + torch.cos(math.pi * done))))
        rows = self.probe.train[(self.count * BATCH + self.rows) % len(self.probe.train.x)]
        self.optimiser.zero_grad(set_to_none=True)
        logits, aux, stats = self.logits(rows)
        loss = F.cross_entropy(logits.flatten(0, 1), rows.label.flatten(), ignore_index=IGNORE)
        torch.autograd.backward(loss + aux)
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimiser.step()
        self.body.update(stats)
        self.loss.copy_(loss.detach())
        self.count += 1

    def accuracy(self) -> float:
        """The share of right answers at the labelled places of the test rows."""
        self.body.eval()
        right = total = 0
        with torch.no_grad():
            for start in range(0, len(self.probe.test.x), BATCH):
                rows = self.probe.test[slice(start, start + BATCH)]
                found = self.logits(rows)[0].argmax(-1)
                right += int(((found == rows.label) & (rows.label != IGNORE)).sum())
                total += int((rows.label != IGNORE).sum())
        self.body.train()
        return right / total


def captured(run: Run, lock: threading.Lock) -> tuple[Callable[[], None], str]:
    """A function that does one step, and how: `graph`, or `eager: reason`."""
    for _ in range(3):  # Warm-up counts as training.
        run.step()
    torch.cuda.current_stream().synchronize()
    try:
        with lock:
            return record(run.step, run.device).replay, "graph"
    except NotCapturable as error:
        return run.step, f"eager: {str(error)[:100]}"


def train(run: Run, lock: threading.Lock, deadline: float) -> dict[str, object]:
    """Train until solved, out of steps or out of time."""
    start, how, step = time.perf_counter(), "cpu", run.step
    if run.device.type == "cuda":
        step, how = captured(run, lock)
    best, at = 0.0, int(run.count)
    while at < run.steps and time.monotonic() < deadline:
        todo = min(EVERY, run.steps - at)
        for _ in range(todo):
            step()
        at += todo
        if not math.isfinite(float(run.loss)):
            how += ", not finite"
            break
        best = max(best, run.accuracy())
        if best >= SOLVED:
            break
    whole = best >= SOLVED or at >= run.steps or "not finite" in how
    seconds = round(time.perf_counter() - start, 2)
    return {"acc": round(best, 4), "steps": at, "how": how, "seconds": seconds, "whole": whole}


def one_op(
    name: str,
    probe: Probe,
    done: Mapping[float, Mapping[str, Any]],
    put: Callable[[dict[str, object]], None],
    device: torch.device,
    steps: int,
    lock: threading.Lock,
    deadline: float,
) -> None:
    """The learning rates of one op on one task, until one solves it."""
    with lock:
        try:
            source = body_source(EXAMPLES[name], probe)
        except SpaceError as error:
            return put({"rate": 0.0, "acc": None, "how": error.message, "whole": True})
    for rate in RATES:
        if rate in done:
            if done[rate]["acc"] is None or done[rate]["acc"] >= SOLVED:
                return
            continue
        if time.monotonic() >= deadline:
            return
        with lock:
            run = Run(source, probe, rate, steps, device)
        try:
            row = train(run, lock, deadline)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            how = f"failed: {str(error).splitlines()[0][:120]}"
            row = {"acc": 0.0, "steps": 0, "how": how, "whole": True}
        if row["whole"]:
            put({"rate": rate, **row})
        if float(str(row["acc"])) >= SOLVED:
            return


def read(out: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    files = sorted(out.glob("runs*.jsonl"))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--out", type=Path, default=Path("build/learning"))
    parser.add_argument("--ops", default=",".join(EXAMPLES))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--part", default="0/1", help="every second item: 0/2 and 1/2")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "page":
        from benchmarks.learning_page import page

        return print(page(read(args.out)))
    deadline = time.monotonic() + 60 * args.minutes
    device = torch.device("cuda" if torch.cuda.is_available() and not args.smoke else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    found = probes(1024, 256) if args.smoke else probes(65_536, 2_048)
    here = {
        k: Probe(p.vocab, p.length, p.train.to(device), p.test.to(device)) for k, p in found.items()
    }
    lock, writing = threading.Lock(), threading.Lock()
    done: dict[tuple[str, str], dict[float, Any]] = {}
    for row in read(args.out):
        done.setdefault((row["op"], row["task"]), {})[row["rate"]] = row
    part, parts = map(int, args.part.split("/"))
    items = [(op, task) for op in args.ops.split(",") for task in here][part::parts]
    file = (args.out / f"runs{part}.jsonl").open("a", buffering=1)
    steps = 20 if args.smoke else STEPS

    def work(item: tuple[str, str]) -> None:
        def put(row: dict[str, object]) -> None:
            with writing:
                line = json.dumps({"op": item[0], "task": item[1], **row})
                file.write(line + "\n")
                print(line, flush=True)

        def go() -> None:
            known = done.get(item, {})
            one_op(item[0], here[item[1]], known, put, device, steps, lock, deadline)

        if device.type == "cpu":
            return go()
        with torch.cuda.stream(torch.cuda.Stream()):
            go()

    with ThreadPoolExecutor(1 if device.type == "cpu" else args.jobs) as pool:
        list(pool.map(work, items))
    print(f"{len(items)} pairs, {len(read(args.out))} runs", flush=True)


if __name__ == "__main__":
    main()
