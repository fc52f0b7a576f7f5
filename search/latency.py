"""The latency of a module: how long one forward pass of one sample takes."""

import statistics
import time

import torch
from torch import Tensor, nn

WARM_UP = 5
PASSES = 21
ENOUGH = 2.0  # seconds after which a slow module has been seen often enough
AT_LEAST = 3


def latency(model: nn.Module, x: Tensor) -> float:
    """Seconds of a forward pass on `x` (batch first, as large as wanted), the median of `PASSES`.

    Evaluation mode, no gradients, and bfloat16 autocast on CUDA as when it is validated; each pass
    waits for the device. The module's mode is as before afterwards.
    """
    training = model.training
    model.eval()
    spent: list[float] = []
    start = time.perf_counter()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
        for _ in range(WARM_UP + PASSES):
            before = time.perf_counter()
            model(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            spent.append(time.perf_counter() - before)
            if len(spent) > AT_LEAST and time.perf_counter() - start > ENOUGH:
                break
    model.train(training)
    return statistics.median(spent[min(WARM_UP, len(spent) - AT_LEAST) :])
