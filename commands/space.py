"""A search space: draw from it, measure it, the probability of a member."""

from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import dump, say
from commands.options import (
    Count,
    Depth,
    InputOption,
    Json,
    Memory,
    OpsOption,
    Set,
    TaskOption,
    Text,
)

if TYPE_CHECKING:
    from einspace.frame import Frame


def _frame(
    space: str, task: str | None, input: str | None, set: list[str] | None, **limits: float | None
) -> "Frame":
    from einspace.frame import frame
    from search.texts import meant, values

    _, interface = meant(space, task, input)
    whole = {name: None if v is None else int(v) for name, v in limits.items()}
    return frame(space, interface, values=values(set or ()), **whole)


def sample(
    space: Text,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="how many")] = 10,
    seed: int = 0,
    task: TaskOption = None,
    input: InputOption = None,
    max_params: Count = None,
    max_flops: Count = None,
    max_nodes: Count = None,
    max_depth: Depth = None,
    max_memory: Memory = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="all derivations alike")] = False,
    nodes: Annotated[int | None, typer.Option(min=1, help="of this size, with --uniform")] = None,
    set: Set = None,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Draw valid architectures from a space, by its weights or all derivations alike."""
    import random

    from einspace.candidates import sample as draw
    from einspace.candidates import uniform as draw_alike
    from grammar.errors import SpaceError

    if nodes is not None and not uniform:
        raise SpaceError("--nodes goes with --uniform", hint="or bound the size with --max-nodes")
    limits = {"max_params": max_params, "max_flops": max_flops, "max_nodes": max_nodes}
    limits |= {"max_depth": max_depth, "max_memory": max_memory}
    place, rng = _frame(space, task, input, set, **limits), random.Random(seed)
    names = "text", "hash", "log_prob", "params", "flops", "nodes", "kind"
    for _ in range(n):
        found = draw_alike(place, rng, nodes) if uniform else draw(place, rng)
        if json:
            dump({name: getattr(found, name) for name in names})
        else:
            say(f"{found.hash}  {found.params:>10,} parameters  {found.text}")


def space(
    space: Text,
    task: TaskOption = None,
    input: InputOption = None,
    max_params: Count = None,
    max_flops: Count = None,
    max_nodes: Count = None,
    max_depth: Depth = None,
    max_memory: Memory = None,
    set: Set = None,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Measure a space: derivations by size, entropy, what of it fits, ranges of cost."""
    from einspace.space_report import lines, space_report

    limits = {"max_params": max_params, "max_flops": max_flops, "max_nodes": max_nodes}
    limits |= {"max_depth": max_depth, "max_memory": max_memory}
    report = space_report(_frame(space, task, input, set, **limits))
    if json:
        return dump(report)
    for line in lines(report):
        say(line)


def prob(
    space: Text,
    arch: Annotated[str, typer.Argument(help="an architecture: file, shipped name or text")],
    task: TaskOption = None,
    input: InputOption = None,
    max_params: Count = None,
    max_flops: Count = None,
    max_nodes: Count = None,
    max_depth: Depth = None,
    max_memory: Memory = None,
    set: Set = None,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """The probability of an architecture in a space, and in how many ways it is derived there."""
    import math

    from einspace.library import resolve
    from einspace.membership import probability

    limits = {"max_params": max_params, "max_flops": max_flops, "max_nodes": max_nodes}
    limits |= {"max_depth": max_depth, "max_memory": max_memory}
    source, _ = resolve(arch)
    found = probability(_frame(space, task, input, set, **limits), source.text)
    if json:
        facts = {"log_prob": found.log_prob, "derivations": found.derivations}
        told = {"kind": found.kind, "max_nodes": found.nodes, "trace": dict(found.trace)}
        return dump({**facts, **told})
    power = math.floor(found.log_prob / math.log(10))  # of ten: a float ends at -308
    lead = math.exp(found.log_prob - power * math.log(10))
    say(f"log-probability {found.log_prob:.6f}, probability {lead:.3g}e{power}")
    say(f"{found.derivations} derivations of at most {found.nodes:,} nodes ({found.kind})")
