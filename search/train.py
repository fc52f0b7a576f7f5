"""Train one candidate on one task: AdamW, warm-up and cosine over the trial's own epochs.

The learning rate rises linearly over the first 5 % of the steps and falls to 0 along a cosine.
Gradients are clipped to norm 1; parameters with one axis or none (gains, biases) do not decay.
bfloat16 autocast on CUDA only, where the whole step is a replayed graph (`search/capture.py`) if
it can be one; `Result.engine` says which it was and, where it was not, why. Everything random
comes from one generator, so the same seed, device and thread count give the same curves bit for
bit on the CPU.

Images stay in the contiguous layout: channels-last was measured 14 % faster on a small
convolutional net, but a `view` in an op would fail on it.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from einspace.result import CAPTURED, Result, Status
from search.capture import Captured, Emitted, NotCapturable, Pass
from search.feed import Feed
from search.flat_kernel import CLIP
from search.task import Data, Split, Task

WARM_UP = 0.05
WORTHWHILE = 4  # whole batches measured that repay the capture of a pass
CHECK_EVERY = 16  # steps between looks at the loss, which wait for the device

Report = Callable[[int, float], bool]
Forward = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class _Log:
    """Curves so far, and the clocks."""

    curves: dict[str, list[float]] = field(default_factory=dict)
    steps: int = 0
    engine: str = ""
    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)
    memory: int = field(default_factory=lambda: peak_memory())

    def add(self, name: str, value: float) -> None:
        self.curves.setdefault(name, []).append(value)

    def result(
        self, status: Status, model: nn.Module, device: torch.device, **more: float
    ) -> Result:
        grown = peak_memory() - self.memory
        metrics = {
            "epochs": float(len(self.curves.get("train_loss", ()))),
            "steps": float(self.steps),
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": time.process_time() - self.cpu,
            "params": float(sum(p.numel() for p in model.parameters())),
            "peak_bytes": float(
                torch.cuda.max_memory_allocated(device) if device.type == "cuda" else grown
            ),
        }
        value = more.get("value")
        curves = {name: tuple(points) for name, points in self.curves.items()}
        error = "the loss is not finite" if status == "nan" else ""
        return Result(status, value, metrics, curves, error, self.engine)


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train(
    model: nn.Module,
    task: Task,
    data: Data,
    *,
    seed: int,
    epochs: int,
    lr: float,
    weight_decay: float,
    device: str = "cpu",
    report: Report | None = None,
    measure: Literal["val", "test"] = "val",
    eager: str = "",
) -> Result:
    """Train `model` in place and measure it.

    `val`: each epoch (from 1) is measured on the validation part and reported; a true answer from
    the task's `min_epochs` on ends the trial as pruned; where the task has a `patience`, a trial
    ends as ok once that many epochs have brought nothing better. `test`: training reads train and
    validation, nothing is reported, and the test part is read once, at the end. A loss or metric
    that is not finite ends the trial as nan. The caller seeds the initial weights. `eager`: why no
    step should be captured ("": try).
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs}; at least one is needed")
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    model.to(where)
    part = move(data.train if measure == "val" else join(data.train, data.val), where)
    held_out = move(_validation(task, data) if measure == "val" else data.test, where)
    feed = Feed(task, part, torch.Generator(where).manual_seed(seed))
    per_epoch = task.steps_per_epoch or max(1, len(part) // task.budget.batch)
    log = _Log()
    total = epochs * per_epoch
    rates = [lr * rate(step, total) for step in range(total)]
    engine = engine_of(model, feed, rates, weight_decay, where, eager)
    log.engine = engine.said
    batch = task.budget.batch * 4
    measuring = 1 if measure == "test" else epochs
    forward: Forward = model
    try:
        for epoch in range(1, epochs + 1):
            log.add("train_loss", _epoch(engine, per_epoch, log))
            if not math.isfinite(log.curves["train_loss"][-1]):
                return log.result("nan", model, where)
            if measure == "test" and epoch < epochs:
                continue
            if forward is model and log.engine == CAPTURED:
                forward, log.engine = _pass(model, held_out, batch, measuring)
            val_loss, value = averages(model, task, held_out, batch, forward)
            log.add(f"{measure}_loss", val_loss)
            log.add(f"{measure}_{task.metric}", value)
            if not (math.isfinite(val_loss) and math.isfinite(value)):
                return log.result("nan", model, where)
            stop = measure == "val" and report is not None and report(epoch, value)
            if stop and task.budget.min_epochs <= epoch < epochs:
                return log.result("pruned", model, where, value=value)
            if measure == "val" and stalled(task, log.curves[f"val_{task.metric}"]):
                break
        return log.result("ok", model, where, value=value)
    finally:
        forward = model
        engine.release()


def stalled(task: Task, curve: Sequence[float]) -> bool:
    """Whether the last `patience` epochs brought nothing better than what was before them."""
    patience, sign = task.budget.patience, 1.0 if task.direction == "maximize" else -1.0
    if patience is None or len(curve) <= max(patience, task.budget.min_epochs):
        return False
    return max(sign * v for v in curve[-patience:]) <= max(sign * v for v in curve[:-patience])


def evaluate_split(model: nn.Module, task: Task, split: Split, batch: int) -> float:
    """The task's metric on a whole part, exact for any batch size."""
    return averages(model, task, split, batch)[1]


def join(first: Split, second: Split) -> Split:
    """The rows of both parts."""
    return Split(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]))


def _validation(task: Task, data: Data) -> Split:
    return Split(data.val.x[: task.val_items], data.val.y[: task.val_items])


def move(split: Split, device: torch.device) -> Split:
    return Split(split.x.to(device), split.y.to(device))


def rate(step: int, total: int) -> float:
    """The factor on the learning rate at a step (from 0) of `total`."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def first_batch(task: Task, data: Data, *, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """The batch that a training on the search split with this seed starts with."""
    where = torch.device(device)
    return Feed(task, move(data.train, where), torch.Generator(where).manual_seed(seed)).next()


class Eager:
    """A model's training, op by op; `said` tells why it is not captured."""

    def __init__(
        self,
        model: nn.Module,
        feed: Feed,
        rates: Sequence[float],
        weight_decay: float,
        said: str,
        *,
        autocast: bool = True,
    ) -> None:
        self.model, self.feed, self.rates, self.said = model, feed, rates, said
        self.autocast = autocast
        self.params = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.params if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.params if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=rates[0], fused=True)
        self.count = 0

    def step(self) -> Tensor:
        """One training step; its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rates[self.count]
        x, y = self.feed.next()
        self.optimiser.zero_grad(set_to_none=True)
        emitted = cast(Emitted, self.model)
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda and self.autocast):
            out, aux, stats = emitted.forward_aux(x)
            loss = self.feed.task.loss(out, y)
        torch.autograd.backward(loss + aux)
        nn.utils.clip_grad_norm_(self.params, CLIP)
        self.optimiser.step()
        emitted.update(stats)
        self.count += 1
        return loss.detach()

    def run(self, count: int) -> Iterator[Tensor]:
        """Train `count` steps; gives the losses of each stretch."""
        while count:
            todo = min(CHECK_EVERY, count)
            count -= todo
            yield torch.stack([self.step() for _ in range(todo)])

    def release(self) -> None:
        """Nothing is held beyond the model."""


def engine_of(
    model: nn.Module,
    feed: Feed,
    rates: Sequence[float],
    weight_decay: float,
    device: torch.device,
    eager: str,
) -> Captured | Eager:
    """What trains the model: the captured step where there is one."""
    reason = "on the CPU" if device.type == "cpu" else eager
    if not reason:
        try:
            return Captured(model, feed, rates, weight_decay=weight_decay, device=device)
        except NotCapturable as error:
            reason = str(error)
    return Eager(model, feed, rates, weight_decay, f"eager: {reason}")


def _epoch(engine: Captured | Eager, count: int, log: _Log) -> float:
    """The mean training loss of an epoch, or the first sum seen that is not finite."""
    engine.model.train()
    running = 0.0
    for losses in engine.run(count):
        running += float(losses.sum())
        log.steps += len(losses)
        if not math.isfinite(running):
            return running
    return running / count


def _pass(model: nn.Module, split: Split, batch: int, times: int) -> tuple[Forward, str]:
    """What gives the outputs of whole batches of `split`, and how the trial is run by that: a graph
    where `times` passes over the split repay its capture."""
    if not split.x.is_cuda or len(split) // batch * times < WORTHWHILE:
        return model, CAPTURED
    model.eval()

    def work(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        return y

    try:
        return Pass(work, split.x[:batch]), CAPTURED
    except NotCapturable as error:
        return model, f"{CAPTURED}, but measured eagerly: {error}"


def averages(
    model: nn.Module, task: Task, split: Split, batch: int, forward: Forward | None = None
) -> tuple[float, float]:
    """(mean loss a row, metric) in evaluation mode; `forward` serves the whole batches."""
    model.eval()
    loss = total = 0.0
    count = 0
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=split.x.is_cuda):
        for x, y in zip(torch.split(split.x, batch), torch.split(split.y, batch), strict=True):
            out = model(x) if forward is None or len(x) < batch else forward(x)
            loss += float(task.loss(out, y)) * len(x)
            part, items = task.score(out, y)
            total, count = total + part, count + items
    return loss / len(split), total / count
