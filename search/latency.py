"""The latency of a module: how long one forward pass, or one decoded token, of one sample takes.

On a GPU the pass is captured as a CUDA graph where that works, so that what is measured is the
device's work and not Python's; a module that cannot be captured is timed as it runs. Evaluation
mode, no gradients, bfloat16 autocast on CUDA as when it is validated; the median of `PASSES`.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from search.capture import NotCapturable, aside, no_syncs, record

WARM_UP = 5
PASSES = 21
ENOUGH = 2.0  # seconds after which a slow module has been seen often enough
AT_LEAST = 3


class Decoder(Protocol):
    """An emitted model that decodes."""

    def init_state(self, batch: int, length: int) -> Any: ...

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]: ...


def latency(model: nn.Module, x: Tensor) -> float:
    """Seconds of a forward pass on `x` (batch first, as large as wanted).

    Each pass waits for the device. The module's mode is as before afterwards.
    """
    with _evaluated(model, x.device):
        return _median(lambda: model(x), x.device)


def decode_latency(model: nn.Module, x: Tensor) -> float:
    """Seconds of one token with a state for `len(x[0])` of them; the state has one size at every
    place. A model that cannot decode pays a whole forward pass for each token."""
    if not hasattr(model, "step"):
        return latency(model, x)
    decoder = cast(Decoder, model)
    with _evaluated(model, x.device):
        token = x[:, :1]
        state = decoder.init_state(len(x), x.shape[1])
        return _median(lambda: decoder.step(token, state), x.device)


@contextmanager
def _evaluated(model: nn.Module, device: torch.device) -> Iterator[None]:
    training = model.training
    model.eval()
    cuda = device.type == "cuda"
    # A graph must not hold autocast's cached copies of weights, which are freed at the end.
    low = torch.autocast("cuda", torch.bfloat16, enabled=cuda, cache_enabled=False)
    try:
        with torch.no_grad(), low:
            yield
    finally:
        model.train(training)


def _median(work: Callable[[], object], device: torch.device) -> float:
    run = _captured(work, device) if device.type == "cuda" else work
    spent: list[float] = []
    start = time.perf_counter()
    for _ in range(WARM_UP + PASSES):
        before = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - before)
        if len(spent) > AT_LEAST and time.perf_counter() - start > ENOUGH:
            break
    return statistics.median(spent[min(WARM_UP, len(spent) - AT_LEAST) :])


def _captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Replays of the work where it can be captured, else the work."""

    with aside(device):
        work()
        try:
            with no_syncs(device):
                work()
            return record(work, device).replay
        except torch.OutOfMemoryError:
            raise
        except (NotCapturable, RuntimeError):
            return work
