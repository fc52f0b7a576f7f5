"""Ways to train one architecture for 500 steps, each timed from the text on.

`captured`: ours, the whole step one graph. `eager`: op by op, bfloat16 autocast, fused AdamW.
`compile`: forward and loss under torch.compile(mode="reduce-overhead"), clip and fused AdamW as in
`eager`. The two peers run the emitted file on its PyTorch references, ours with its kernels.
"""

import hashlib
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.turnaround.texts import SIZES, VOCAB, texts
from einspace.interface import Interface
from einspace.load import GUARD, load, statements
from ops.spec import seq, tokens
from search.capture import Captured, Emitted
from search.feed import Feed
from search.flat_kernel import CLIP
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task
from search.train import Eager, rate

STEPS, ROWS, RATE, DECAY = 500, 2048, 1e-3, 0.1
GROUPS, GROUP = 8, 10  # groups of steps between two events; the median group is reported
Key = tuple[str, str]


def interface_of(size: str) -> Interface:
    """Tokens in, logits of the next token out."""
    length = SIZES[size].length
    kind = tokens(length, VOCAB)
    return Interface({"x": kind}, target=seq(length, VOCAB), causal=True)


def _no_data(seed: int) -> Data:
    raise NotImplementedError("the benchmark makes its own rows")


def plain_loss(y: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy as torch has it."""
    return F.cross_entropy(y.flatten(0, -2), target.flatten())


def task_of(size: str, *, kernels: bool) -> Task:
    """Next token of a Markov chain."""
    return Task(
        name=f"turnaround-{size}",
        about="next token of a synthetic chain",
        interface=interface_of(size),
        metric="acc",
        direction="maximize",
        budget=Budget(epochs=1, batch=SIZES[size].batch),
        load=_no_data,
        loss=cross_entropy if kernels else plain_loss,
        score=accuracy,
    )


def rows_of(size: str, device: torch.device) -> Split:
    """Rows of a chain in which each token has four likely successors; the same on every call."""
    generator = torch.Generator().manual_seed(0)
    length = SIZES[size].length
    follow = torch.randint(VOCAB, (VOCAB, 4), generator=generator)
    choice = torch.randint(4, (ROWS, length), generator=generator)
    x = torch.randint(VOCAB, (ROWS, length + 1), generator=generator)
    for t in range(length):
        x[:, t + 1] = follow[x[:, t], choice[:, t]]
    return Split(x[:, :-1].contiguous().to(device), x[:, 1:].contiguous().to(device))


class Kit:
    """Where sources come from: lark compiles the text here, else the folder that was prepared."""

    def __init__(self, folder: Path | None) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        if folder is not None:
            self.made = json.loads((folder / "sources.json").read_text(encoding="utf-8"))

    def source(self, key: Key) -> str:
        """The emitted file; compiled now wherever that can be done."""
        try:
            from einspace.compile import compile_text
        except ImportError:
            return str(self.made["/".join(key)]["source"])
        return compile_text(texts()[key], interface_of(key[0])).source

    def compiles(self) -> bool:
        """Whether `source` compiles, so that its time counts."""
        try:
            import lark  # noqa: F401
        except ImportError:
            return False
        return True


def prepare(folder: Path) -> None:
    """Write all sources for a machine without lark."""
    folder.mkdir(parents=True, exist_ok=True)
    kit = Kit(None)
    made: dict[str, dict[str, object]] = {}
    for key in texts():
        start = time.perf_counter()
        made["/".join(key)] = {"source": kit.source(key), "seconds": time.perf_counter() - start}
    (folder / "sources.json").write_text(json.dumps(made), encoding="utf-8")


def build(source: str, device: torch.device, *, kernels: bool) -> nn.Module:
    """The model from seed 0; without kernels, every op on its reference."""
    model = load(source) if kernels else plain(source)
    torch.manual_seed(0)
    return model().to(device)


def plain(source: str) -> type[nn.Module]:
    """The class of a file without its kernels, in a module that can be imported, as torch.compile
    wants it."""
    guard = f"if {GUARD}:"
    text = "".join(part for part in statements(source) if not part.startswith(guard))
    name = f"plain_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    path = Path(tempfile.gettempdir()) / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    module.__dict__["on_triton"] = lambda *_: False
    model: type[nn.Module] = module.Model
    return model


def feed_of(size: str, rows: Split, device: torch.device, *, kernels: bool) -> Feed:
    """Batches in the order of seed 0."""
    return Feed(task_of(size, kernels=kernels), rows, torch.Generator(device).manual_seed(0))


def rates(total: int = STEPS) -> list[float]:
    """The learning rates; those beyond the last step are for timing alone."""
    return [RATE * rate(step, total) for step in range(total)] + [1e-9] * (2 * GROUPS * GROUP)


def step_seconds(run: Callable[[int], None], groups: int = GROUPS) -> float:
    """The median over groups of `GROUP` steps, from events on the device."""
    run(GROUP)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(groups + 1)]
    events[0].record()
    for event in events[1:]:
        run(GROUP)
        event.record()
    torch.cuda.synchronize()
    gaps = [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    return statistics.median(gaps) / 1000 / GROUP


def captured(key: Key, kit: Kit, rows: Split, device: torch.device, unroll: int) -> dict[str, Any]:
    """Ours: text to 500 trained steps, all of them run."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    source = kit.source(key)
    compiled = time.perf_counter()
    model = build(source, device, kernels=True)
    built = time.perf_counter()
    feed = feed_of(key[0], rows, device, kernels=True)
    engine = Captured(model, feed, rates(), weight_decay=DECAY, device=device, unroll=unroll)
    torch.cuda.synchronize()
    ready = time.perf_counter()
    losses: list[float] = []
    for part in engine.run(STEPS):
        losses += part.tolist()  # As a training does, which looks whether they are finite.
    end = time.perf_counter()

    def run(count: int) -> None:
        engine.place.zero_()
        engine.replay(count)

    step, shadowed = step_seconds(run), engine.shadowed
    engine.release()
    return {
        "compile": compiled - start,
        "load": built - compiled,
        "capture": ready - built,
        "setup": ready - start,
        "steps": STEPS,
        "step": step,
        "total": end - start,
        "measured": "whole",
        "losses": losses,
        "shadowed": shadowed,
    }


class Inductor(Eager):
    """`Eager` whose forward and loss are compiled."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, object]:
            with torch.autocast("cuda", torch.bfloat16):
                out, aux, stats = cast(Emitted, self.model).forward_aux(x)
                loss = self.feed.task.loss(out, y)
            return loss + aux, loss, stats

        self.forward = torch.compile(forward, mode="reduce-overhead")

    def step(self) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rates[self.count]
        x, y = self.feed.next()
        self.optimiser.zero_grad(set_to_none=True)
        torch.compiler.cudagraph_mark_step_begin()
        whole, loss, stats = self.forward(x, y)
        kept = loss.detach().clone()
        torch.autograd.backward(whole)
        nn.utils.clip_grad_norm_(self.params, CLIP)
        self.optimiser.step()
        cast(Emitted, self.model).update(stats)
        self.count += 1
        return kept


FIRST = {"eager": 3, "compile": 5}  # steps until a peer runs as it will: they are set-up


def peer(key: Key, kit: Kit, rows: Split, device: torch.device, name: str) -> dict[str, Any]:
    """A peer: its set-up in full, then `500 x` the median step."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    source = kit.source(key)
    model = build(source, device, kernels=False)
    make = Inductor if name == "compile" else Eager
    engine = make(model, feed_of(key[0], rows, device, kernels=False), rates(), DECAY, name)
    model.train()
    losses = [engine.step() for _ in range(FIRST[name])]
    torch.cuda.synchronize()
    setup = time.perf_counter() - start

    def run(count: int) -> None:
        losses.extend(engine.step() for _ in range(count))

    step = step_seconds(run)
    return {
        "setup": setup,
        "steps": len(losses),
        "step": step,
        "total": setup + (STEPS - FIRST[name]) * step,
        "measured": f"set-up + {STEPS - FIRST[name]} x step",
        "losses": torch.stack(losses).tolist(),
    }


def exact(key: Key, kit: Kit, rows: Split, device: torch.device, count: int = 30) -> dict[str, Any]:
    """The first losses in fp32, no TF32: what the others are compared with."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    model = build(kit.source(key), device, kernels=False)
    engine = Eager(
        model, feed_of(key[0], rows, device, kernels=False), rates(), DECAY, "fp32", autocast=False
    )
    model.train()
    losses = torch.stack([engine.step() for _ in range(count)])
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return {"losses": losses.tolist()}


def measure(
    method: str, key: Key, kit: Kit, rows: Split, device: torch.device, unroll: int
) -> dict[str, Any]:
    """One row by one method."""
    if method in ("captured", "cold"):
        return captured(key, kit, rows, device, unroll)
    if method == "exact":
        return exact(key, kit, rows, device)
    return peer(key, kit, rows, device, method)
