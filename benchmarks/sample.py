"""Samples per second from each shipped space, and proof that the samples are valid.

    python -m benchmarks.sample [--n 10000] [--run 500]

Draws `n` architectures a space; every draw is typed by the walk. `run` of them, evenly spread, are
compiled, built and run forward and backward on random data. Prints one row a space: samples per
CPU-second, share of draws that needed a second try, distinct ids, failures.
"""

import argparse
import random
import time

import torch

from einspace.candidates import frame, sample
from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.library import shipped
from einspace.load import load
from ops.spec import TensorType
from search.tasks import find


def random_input(kind: TensorType, batch: int) -> torch.Tensor:
    if kind.kind == "tokens":
        return torch.randint(0, kind.vocab or 2, (batch, *kind.shape))
    return torch.randn(batch, *kind.shape)


def runs(text: str, interface: Interface) -> bool:
    """Build, one forward and one backward; whether shape and gradients are as promised."""
    model = load(compile_text(text, interface).source)()
    y, aux, stats = model.forward_aux(*(random_input(t, 2) for t in interface.inputs.values()))
    model.update(stats)
    (y.square().mean() + aux).backward()
    wanted = interface.target
    assert wanted is not None
    grads = [p.grad for p in model.parameters()]
    return tuple(y.shape[1:]) == wanted.shape and all(g is not None for g in grads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--run", type=int, default=500)
    parser.add_argument("--spaces", default="", help="names with commas between; default all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("draws", 8), ("per CPU-s", 11), ("2nd try %", 11), ("distinct", 10), ("ran", 6)
    print(f"{'space':<12}" + "".join(f"{h:>{w}}" for h, w in (*columns, ("bad", 5))))
    chosen_spaces = args.spaces.split(",") if args.spaces else list(shipped("spaces"))
    for name, row in shipped("spaces").items():
        if name not in chosen_spaces:
            continue
        assert row.task is not None
        goal = find(row.task)
        interface = goal.interface
        # The budget of a search; without one, recursive spaces reach what nobody would train.
        limits = goal.budget.max_params or 1_000_000, goal.budget.max_flops
        place = frame(name, interface, max_params=limits[0], max_flops=limits[1])
        rng = random.Random(0)
        draws = [sample(place, rng)]  # The sums of the space are built at the first draw.
        start = time.process_time()
        draws += [sample(place, rng) for _ in range(args.n - 1)]
        seconds = time.process_time() - start
        again = 100 * sum(d.tries > 1 for d in draws) / len(draws)
        chosen = draws[:: max(1, len(draws) // args.run)][: args.run]
        bad = sum(not runs(d.text, interface) for d in chosen)
        distinct = len({d.hash for d in draws})
        print(
            f"{name:<12}{len(draws):>8}{len(draws) / seconds:>11.0f}{again:>11.2f}"
            f"{distinct:>10}{len(chosen):>6}{bad:>5}",
            flush=True,
        )


if __name__ == "__main__":
    main()
