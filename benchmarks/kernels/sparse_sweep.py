"""The sparse engine's tile sizes, tried on a GPU: compiled in parallel, timed one by one.

    python -m benchmarks.kernels.sparse_sweep [--widths 64,128] [--parts forward,queries,keys]
        [--names "window 256,prefix 1000"]

A candidate is (M, N, warps, stages, loops, descriptors), as `sparse_config` gives them.
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.sparse import chosen, tensors
from ops.kernels.sparse_launch import sparse_forward_run, sparse_keys_run, sparse_queries_run

SWEPT = ("window 256", "documents 1000", "prefix 1000")
PARTS = ("forward", "queries", "keys")
Config = tuple[Any, ...]  # as in `sparse_config`
Job = tuple[str, int, Config]
TILES: Mapping[tuple[str, int], list[tuple[int, int, int, int]]] = {
    ("keys", 64): [
        (64, 64, 4, 2), (64, 64, 4, 3), (32, 64, 4, 3), (64, 128, 8, 2), (32, 128, 4, 2),
        (32, 128, 8, 3), (64, 64, 8, 2),
    ],
    ("keys", 128): [
        (32, 128, 8, 3), (64, 64, 4, 2), (64, 64, 8, 2), (32, 64, 4, 2), (32, 64, 4, 3),
        (64, 128, 8, 2), (32, 128, 8, 2),
    ],
    ("forward", 128): [
        (64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2), (64, 64, 4, 1), (128, 64, 8, 3),
    ],
    ("queries", 128): [
        (64, 64, 4, 2), (64, 32, 4, 2), (64, 64, 4, 1), (64, 32, 4, 3),
    ],
    ("queries", 64): [(64, 64, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3), (64, 32, 4, 4)],
    ("forward", 64): [(64, 64, 4, 2), (64, 64, 4, 3)],
}  # fmt: skip


# Tried first: fewer registers a thread, so that one more program fits, and transposed tiles.
FIRST: Mapping[tuple[str, int], list[Config]] = {
    ("keys", 64): [
        (64, 64, 4, 2, "branch", True, 168, True),
        (64, 64, 4, 2, "branch", True, 0, True),
        (64, 64, 4, 2, "branch", False, 168, True),
        (64, 64, 4, 2, "branch", True, 168, False),
        (32, 64, 4, 3, "branch", True, 168, False),
    ],
    ("keys", 128): [
        (64, 64, 4, 2, "branch", True, 0, True),
        (64, 64, 8, 2, "branch", True, 0, True),
        (64, 64, 4, 1, "branch", True, 0, True),
    ],
    ("queries", 64): [
        (64, 64, 4, 2, "branch", True, 128),
        (64, 64, 4, 2, "branch", False, 128),
    ],
    ("forward", 128): [(64, 32, 4, 2, "branch", True), (64, 64, 4, 2, "branch", True, 128)],
    ("queries", 128): [(64, 32, 4, 2, "branch", True, 128)],
    ("forward", 64): [(64, 64, 4, 3, "branch", True, 128), (64, 64, 4, 3, "branch", False, 128)],
}


def candidates(part: str, d: int) -> list[Config]:
    """One loop that asks for every tile, by pointers and by descriptors."""
    usual = [(*t, "branch", describe) for t in TILES[part, d] for describe in (False, True)]
    return [*FIRST[part, d], *usual]


def launch(part: str, name: str, parts: tuple[Tensor, ...], config: Config | None) -> Any:
    q, k, v, o, lse, do, delta = parts
    pattern = chosen(name, q.shape[2], q.shape[1])
    extras = (None, None, None, q.shape[-1] ** -0.5, None, False)
    if part == "forward":
        return sparse_forward_run(q, k, v, pattern, extras, config)
    if part == "queries":
        return sparse_queries_run(q, k, v, o, lse, do, None, pattern, extras, config)
    return sparse_keys_run(q, k, v, lse, do, delta, pattern, extras, config)


def operands(b: int, h: int, n: int, d: int, seed: int) -> tuple[Tensor, ...]:
    q, k, v = tensors(b, h, n, d, False)(seed)
    lse = torch.full((b, h, n), 5.0, device="cuda")
    return q, k, v, torch.randn_like(q), lse, torch.randn_like(q), torch.zeros_like(lse)


def compiled(job: tuple[Job, list[str]]) -> str:
    """Compiles one kernel for all patterns into the cache on disk; what went wrong, or nothing."""
    (part, d, config), names = job
    try:
        for name in names:
            launch(part, name, operands(1, 1, 256, d, 0), config)
        torch.cuda.synchronize()
    except Exception as fault:  # noqa: BLE001  # too much shared memory, say
        return f"{type(fault).__name__} {str(fault)[:90]}"
    return ""


def replayed(run: Callable[[int], object], sets: int) -> float:
    """Median ms of a call, captured over several sets of inputs."""
    for i in range(sets):
        run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(sets):
            run(i)
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / sets)
    return statistics.median(times[2:])


def tried(job: Job, names: list[str], sets: list[tuple[Tensor, ...]]) -> list[float]:
    part, _, config = job
    return [replayed(lambda i, n=n: launch(part, n, sets[i], config), len(sets)) for n in names]


def sweep(jobs: list[Job], names: list[str], processes: int = 14) -> None:
    """Prints ms of every candidate on the swept patterns, and the best of each."""
    sets: list[tuple[Tensor, ...]] = []
    found: list[tuple[Config, list[float]]] = []
    group = ("", 0)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        faults = pool.imap(compiled, [(job, names) for job in jobs], chunksize=1)
        for job, fault in zip(jobs, faults, strict=True):
            if job[:2] != group:
                tell(group, names, found)
                group, found = job[:2], []
                sets = [operands(4, 16, 4096, job[1], seed) for seed in range(2)]
            if not fault:
                found.append((job[2], tried(job, names, sets)))
                fault = " ".join(f"{t:.3f}" for t in found[-1][1])
            print(f"{job[0][0]} {job[1]} {job[2]} {fault}", flush=True)
    tell(group, names, found)


def tell(group: tuple[str, int], names: list[str], found: list[tuple[Config, list[float]]]) -> None:
    """The best four candidates for each pattern."""
    for i, name in enumerate(names if found else []):
        best = sorted((times[i], config) for config, times in found)[:4]
        told = "; ".join(f"{t:.4f} {c}" for t, c in best)
        print(f"BEST {group[0]} D{group[1]} {name}: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--widths", default="64,128")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--names", default=",".join(SWEPT))
    arguments = parser.parse_args()
    widths = [int(w) for w in arguments.widths.split(",")]
    parts = arguments.parts.split(",")
    kinds = [(part, d) for part, d in TILES if part in parts and d in widths]
    jobs = [(part, d, config) for part, d in kinds for config in candidates(part, d)]
    sweep(jobs, arguments.names.split(","))


if __name__ == "__main__":
    main()
