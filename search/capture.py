"""Captured training: a whole step as one CUDA graph, replayed without Python.

In the graph: rows gathered by a device index, forward, loss, backward, clip, AdamW, the learning
rate of a device step counter, `update(stats)`. bfloat16 autocast; what stays fp32 may use TF32.
Random numbers come from generators registered with the graph, so dropout and drawn batches go on
as they would without it. Two passes run before the capture, which load kernels and find what a
graph cannot hold; all they changed is put back, so that the curve is that of eager training
within bfloat16 rounding. What cannot be captured is told with its reason, before anything broke
where possible: host syncs are looked for with torch's own debug mode, not by failing.
"""

import gc
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from einspace.result import CAPTURED
from search.feed import Feed
from search.flat import Casts, FlatAdamW

CHUNK = 64  # steps between looks at the loss, which wait for the device
BROKEN = "the capture broke off: "


class NotCapturable(Exception):
    """A step that no graph can hold, and why. Where the reason begins with `BROKEN`, it was found
    while capturing, and torch's allocator may not have got over it: a process should end soon."""


class Emitted(Protocol):
    """What an emitted model has besides being a module."""

    def forward_aux(self, x: Tensor) -> tuple[Tensor, Tensor, object]: ...

    def update(self, stats: object) -> None: ...


def record(
    step: Callable[[], object], device: torch.device, generators: Sequence[torch.Generator] = ()
) -> torch.cuda.CUDAGraph:
    """`step`, which has run before, as a graph; the capture itself computes nothing.

    On the current stream, or on one of its own where that is the default one, which cannot be
    captured. Other threads may use the device meanwhile. Raises: NotCapturable; the generators
    are usable again then.
    """
    graph = torch.cuda.CUDAGraph()
    default = torch.cuda.default_generators[device.index or 0]
    kept = [(g, g.get_state()) for g in (default, *generators)]
    for generator in generators:
        graph.register_generator_state(generator)
    stream, here = torch.cuda.current_stream(device), torch.cuda.current_stream(device)
    if stream == torch.cuda.default_stream(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(here)
    collects = gc.isenabled()
    gc.disable()  # What a collection frees, an older graph say, would end the capture.
    failures: list[str] = []  # no exception is kept: its frames would keep the autograd graph
    full = False
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                step()
            except Exception as error:  # noqa: BLE001  # named below, once the capture has ended
                failures.append(reason_of(error))
                full = isinstance(error, torch.OutOfMemoryError)
            try:
                graph.capture_end()
            except RuntimeError as error:
                failures.append(reason_of(error))
    finally:
        if collects:
            gc.enable()
    here.wait_stream(stream)
    if not failures:
        return graph
    for generator, state in kept:  # They believe that they are being captured still.
        fresh = torch.Generator(generator.device)
        fresh.set_state(state)
        generator.graphsafe_set_state(fresh)
    torch.cuda.synchronize(device)  # A sticky error of the device shows here, and ends the trial.
    if full:
        raise torch.OutOfMemoryError(failures[0])
    raise NotCapturable(BROKEN + failures[0])


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line, with the line of the emitted file where it did."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.line for f in frames if f.filename.startswith("<model ") and f.line]
    return f"{text} (at `{lines[-1]}`)" if lines else text


class Captured:
    """A model's training on a device, a graph replayed for each step.

    `rates`: the learning rate of every step. `alone`: no other thread of this process uses CUDA,
    so that torch may be told to refuse host syncs. Raises: NotCapturable, the model as it was.
    """

    said = CAPTURED

    def __init__(
        self,
        model: nn.Module,
        feed: Feed,
        rates: Sequence[float],
        *,
        weight_decay: float,
        device: torch.device,
        unroll: int = 1,
        alone: bool = True,
    ) -> None:
        self.model, self.feed, self.device, self.alone = model, feed, device, alone
        self.weight_decay = weight_decay
        self.rates = torch.tensor(rates, device=device)
        self.losses = torch.zeros(CHUNK, device=device)
        self.order = torch.zeros(CHUNK, feed.size, dtype=torch.long, device=device)
        self.rows = self.order[:1].clone()
        self.place = torch.zeros(1, dtype=torch.long, device=device)  # in the chunk
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimiser: FlatAdamW | None = None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        model.train()
        try:
            with self._untraced():
                self._prepare()
                if device.type == "cuda":
                    torch.cuda.empty_cache()  # What is cached cannot be freed during a capture.
                    for steps in {1, unroll}:
                        self.graphs[steps] = self._graph(steps)
        except Exception:
            self.release()
            raise

    @property
    def shadowed(self) -> int:
        """Parameters that the model reads as bfloat16 shadows."""
        slots = self.optimiser.slots if self.optimiser else []
        return sum(slot.leaf is not slot.param for slot in slots)

    def generators(self) -> tuple[torch.Generator, ...]:
        """What draws batches, where a step does that."""
        task = self.feed.task
        return () if task.batch is None and task.augment is None else (self.feed.generator,)

    # -- one step ----------------------------------------------------------------------------

    def _forward(self) -> tuple[Tensor, Tensor, object]:
        """(loss, auxiliary loss, statistics) of the batch whose turn it is."""
        x, y = self.feed.batch(None if self.feed.order is None else self.rows[0])
        with torch.autocast(self.device.type, torch.bfloat16):
            out, aux, stats = cast(Emitted, self.model).forward_aux(x)
            loss = self.feed.task.loss(out, y)
        return loss, aux, stats

    def step(self) -> None:
        """One training step; reads nothing back."""
        optimiser = self.optimiser
        assert optimiser is not None
        if self.feed.order is not None:
            torch.index_select(self.order, 0, self.place, out=self.rows)
        optimiser.clear()
        with optimiser.shadows(self.model):
            loss, aux, stats = self._forward()
            torch.autograd.backward(loss + aux)
        optimiser.step()
        cast(Emitted, self.model).update(stats)
        self.losses.index_copy_(0, self.place, loss.detach().float().view(1))
        self.place.add_(1)

    def _graph(self, count: int) -> torch.cuda.CUDAGraph:
        return record(lambda: self._steps(count), self.device, self.generators())

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    # -- before the capture ------------------------------------------------------------------

    def _prepare(self) -> None:
        """A pass that finds what is trained and what is cast; then a step, which must be clean."""
        state = self._random_state()
        watch = Casts(self.params)
        with watch:
            loss, aux, _ = self._forward()
        torch.autograd.backward(loss + aux)
        trained = [p for p in self.params if p.grad is not None]
        if not trained:
            raise NotCapturable("no parameter gets a gradient")
        others = {str(p.dtype).removeprefix("torch.") for p in trained} - {"float32"}
        if others:
            raise NotCapturable(f"there are parameters in {', '.join(sorted(others))}")
        low = {id(p) for p in watch.found()}
        reason = "two passes over one batch differ"
        for shadowed in ([p for p in trained if id(p) in low], []):
            self._set_random_state(state)
            self.optimiser = FlatAdamW(
                trained, rates=self.rates, weight_decay=self.weight_decay, cast=shadowed
            )
            try:
                if self._rehearse(self.optimiser, loss.detach().float()):
                    return
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = reason_of(error)
        raise NotCapturable(reason)

    def _rehearse(self, optimiser: FlatAdamW, loss: Tensor) -> bool:
        """One step that leaves no trace; whether it saw the loss of the pass without shadows."""
        buffers = [
            (module, name, tensor)
            for module in self.model.modules()
            for name, tensor in module._buffers.items()
            if tensor is not None
        ]
        tensors = [*optimiser.state(), *(tensor for _, _, tensor in buffers)]
        kept = [t.clone() for t in tensors]
        places = self._places()
        try:
            with no_syncs(self.device) if self.alone else nullcontext():
                self.step()
            moved = [n for n, place in self._places().items() if places.get(n) != place]
            if moved:
                raise NotCapturable(f"update replaces {moved[0]} instead of writing to it")
            return torch.allclose(self.losses[0], loss, rtol=1e-3, atol=1e-4, equal_nan=True)
        finally:
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
            for module, name, tensor in buffers:
                module._buffers[name] = tensor
            self.place.zero_()

    def _places(self) -> dict[str, int]:
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        return {name: tensor.data_ptr() for name, tensor in named}

    @contextmanager
    def _untraced(self) -> Iterator[None]:
        """Random numbers are as before afterwards; on CUDA, what runs here has its own stream."""
        state = self._random_state()
        try:
            with aside(self.device):
                yield
        finally:
            self._set_random_state(state)

    def _generators(self) -> list[torch.Generator]:
        found = [torch.default_generator, self.feed.generator]
        if self.device.type == "cuda":
            found.append(torch.cuda.default_generators[self.device.index or 0])
        return found

    def _random_state(self) -> list[Tensor]:
        return [g.get_state() for g in self._generators()]

    def _set_random_state(self, state: Sequence[Tensor]) -> None:
        for generator, value in zip(self._generators(), state, strict=True):
            generator.set_state(value)

    # -- training ----------------------------------------------------------------------------

    def run(self, count: int) -> Iterator[Tensor]:
        """Train `count` steps; gives the losses of each chunk as it has been queued."""
        done = 0
        while done < count:
            todo = min(CHUNK, count - done)
            if self.feed.order is not None:
                rows = self.feed.order.take(todo)
                todo = len(rows)
                self.order[:todo].copy_(rows)
            self.place.zero_()
            self.replay(todo)
            done += todo
            yield self.losses[:todo]

    def replay(self, count: int) -> None:
        """Queue `count` steps of this chunk."""
        if not self.graphs:
            self._steps(count)
            return
        most = max(self.graphs)
        for _ in range(count // most):
            self.graphs[most].replay()
        for _ in range(count % most):
            self.graphs[1].replay()

    def release(self) -> None:
        """The graphs' memory is given back; the model keeps its parameters."""
        self.graphs = {}
        for param in self.params:
            param.grad = None
        if self.optimiser is not None:
            self.optimiser.release()
            self.optimiser.clear()
            self.optimiser = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Pass:
    """The forward pass of a model in its present mode, on batches like `x`, as a graph: without
    gradients, in bfloat16 autocast.

    What it gives is overwritten by the next call. Raises: NotCapturable.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.x, self.y = x.clone(), x
        device = x.device

        def run() -> None:
            self.y = work(self.x)

        # Autocast's cache would hand the graph copies of weights that are outdated, then freed.
        low = torch.autocast("cuda", torch.bfloat16, cache_enabled=False)
        with torch.no_grad(), low, aside(device):
            run()
            try:
                with no_syncs(device):
                    run()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise NotCapturable(reason_of(error)) from None
            torch.cuda.empty_cache()
            self.graph = record(run, device)

    def __call__(self, x: Tensor) -> Tensor:
        self.x.copy_(x)
        self.graph.replay()
        return self.y


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """A stream of its own on CUDA, as a capture needs; nothing elsewhere."""
    if device.type != "cuda":
        yield
        return
    here = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
    stream.wait_stream(here)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        here.wait_stream(stream)


@contextmanager
def no_syncs(device: torch.device) -> Iterator[None]:
    """An operation that waits for the device is an error here."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
