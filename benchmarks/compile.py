"""Compile times: text to an imported module class, and to an initialised 12-layer GPT.

    python -m benchmarks.compile [--n 300]

p50 and p95 of parse + check + derive + rewrite + emit + import for sampled architectures (imports
of torch and the op table excluded), and the time for a 12-layer GPT (d=128, 84 symbols) with weight
init included. Wall-clock milliseconds, one thread.
"""

import argparse
import random
import time

import torch

from einspace.candidates import frame, sample
from einspace.compile import compile_text
from einspace.library import shipped
from einspace.load import load
from search.tasks import find

GPT = (
    "embed(dim=128) >> (residual(rms_norm >> softmax_attn(heads=4, causal, pos=rope)) "
    ">> residual(rms_norm >> mlp(mult=4))) * 12 >> rms_norm >> head"
)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = find("shakespeare").interface
    load(compile_text(GPT, lm).source)()
    print(f"{'what':<24}{'n':>5}{'p50 ms':>9}{'p95 ms':>9}")
    for name, row in shipped("spaces").items():
        assert row.task is not None
        goal = find(row.task)
        interface = goal.interface
        # The budget of a search; without one, recursive spaces reach what nobody would train.
        limits = goal.budget.max_params or 1_000_000, goal.budget.max_flops
        place = frame(name, interface, max_params=limits[0], max_flops=limits[1])
        rng = random.Random(0)
        times = []
        for _ in range(args.n):
            text = sample(place, rng).text
            start = time.perf_counter()
            load(compile_text(text, interface).source)
            times.append(1e3 * (time.perf_counter() - start))
        print(f"{name:<24}{args.n:>5}{percentile(times, 0.5):>9.1f}{percentile(times, 0.95):>9.1f}")
    times = []
    for _ in range(100):
        start = time.perf_counter()
        load(compile_text(GPT, lm).source)()
        times.append(1e3 * (time.perf_counter() - start))
    middle, high = percentile(times, 0.5), percentile(times, 0.95)
    print(f"{'gpt, 12 layers, init':<24}{100:>5}{middle:>9.1f}{high:>9.1f}")


if __name__ == "__main__":
    main()
