"""Where exact sums end and estimates begin, and how fast each shipped space is drawn from.

    python -m benchmarks.exact [--draws 300]

A row a space, task and budget. Set-up is CPU-seconds until the first draw could be made, the
normaliser of an estimate included; draws are whole candidates (text, id, trace, costs) per
CPU-second; failed counts draws that raised; memory is the process's peak so far, in MB.
"""

import argparse
import math
import random
import resource
import time

from einspace.candidates import sample
from einspace.draws import sums_of
from einspace.frame import frame
from einspace.interface import Interface
from einspace.library import shipped
from grammar.errors import SpaceError
from grammar.estimate import Estimate
from ops.spec import image, scores
from search.tasks import find

PICTURE = Interface({"x": image(3, 64, 64)}, scores(10))
BUDGETS: tuple[tuple[str, dict[str, int]], ...] = (
    ("attention", {}),
    ("attention", {"max_params": 50_000, "max_flops": 9_000_000}),
    ("lm", {}),
    ("lm", {"max_params": 200_000}),
    ("lm", {"max_params": 200_000, "max_flops": 20_000_000}),
    ("vision", {}),
    ("vision", {"max_params": 30_000}),
    ("vision", {"max_params": 30_000, "max_flops": 10_000_000}),
    ("einspace-1d", {"max_params": 1_000_000}),
    ("einspace", {"max_nodes": 4, "max_params": 1_000_000}),
    ("einspace", {"max_nodes": 5, "max_params": 1_000_000}),
    ("einspace", {"max_nodes": 6, "max_params": 1_000_000}),
    ("einspace", {"max_nodes": 40, "max_params": 1_000_000}),
    ("einspace", {"max_params": 1_000_000}),
)


def row(name: str, budget: dict[str, int], draws: int) -> str:
    task = shipped("spaces")[name].task
    assert task is not None
    face = PICTURE if name == "einspace" else find(task).interface
    start = time.process_time()
    place = frame(name, face, **budget)
    sums = sums_of(place)
    mass = sums.log_mass()
    ready = time.process_time()
    error = f"{100 * sums.error():.1f} %" if isinstance(sums, Estimate) else "-"
    way = type(sums.proposer).__name__.lower() if isinstance(sums, Estimate) else "exact"
    rng, failed, nodes = random.Random(1), 0, []
    for _ in range(draws):
        try:
            nodes.append(sample(place, rng).nodes)
        except SpaceError:
            failed += 1
    speed = draws / (time.process_time() - ready)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    told = ", ".join(f"{k[4:]} {v:,}" for k, v in budget.items()) or "none"
    return (
        f"| {name} | {told} | {way} | {100 * math.exp(mass):.3g} % | {error} | {ready - start:.1f}"
        f" | {speed:.0f} | {failed} | {sum(nodes) / max(1, len(nodes)):.1f} | {peak} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    args = parser.parse_args()
    heads = "space", "budget", "way", "fits", "error", "set-up s", "draws / CPU-s", "failed"
    print("| " + " | ".join((*heads, "mean nodes", "peak MB")) + " |")
    print("|" + "---|" * 10)
    for name, budget in BUDGETS:
        print(row(name, budget, args.draws), flush=True)


if __name__ == "__main__":
    main()
