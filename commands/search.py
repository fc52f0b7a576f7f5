"""Train one architecture, search a space, or pull trials from a study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.console import dump, say
from commands.options import Count, Json, OpsOption, Study, TaskOption, Text
from commands.results import export_winner, show_summary, tracking

if TYPE_CHECKING:
    from einspace.result import SearchRecord


def train(
    text: Text,
    task: TaskOption = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    lr: float = 3e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    final: Annotated[bool, typer.Option(help="train + validation, then test once")] = False,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Train one architecture on a task."""
    from search.single import train_text

    tell = (lambda line: None) if json else (lambda line: typer.echo(line, err=True))
    facts = train_text(
        text,
        task=task,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        threads=threads,
        final=final,
        tell=tell,
    )
    if json:
        return dump(facts)
    say("{status}: {split} {metric} {value}, {params:,} parameters".format(**facts))
    if facts["error"]:
        say(str(facts["error"]))


def search(
    space: Text,
    task: TaskOption = None,
    trials: Annotated[int, typer.Option(min=1, help="in the study, in all")] = 40,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    timeout: Annotated[float | None, typer.Option(help="seconds; starts no trial after")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="default: evolution, or pareto for several objectives")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="the metric, then costs: acc,params,flops,latency ...")
    ] = None,
    pruner: Annotated[str | None, typer.Option(help="hyperband, halving or none")] = None,
    proxy: Annotated[
        str | None, typer.Option(help="of 8 proposals the best by naswot, snip, params ...")
    ] = None,
    seed: int = 0,
    seed_arch: Annotated[list[str] | None, typer.Option(help="tried first")] = None,
    warm_start: Annotated[str | None, typer.Option(help="a study whose best are tried")] = None,
    warm_top: Annotated[int, typer.Option(min=1, help="how many of them")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="the highest fidelity")] = None,
    study: Annotated[str | None, typer.Option(help="default: SPACE-TASK")] = None,
    storage: Annotated[str | None, typer.Option(help="a database URL")] = None,
    device: str = "cpu",
    max_params: Count = None,
    max_flops: Count = None,
    max_nodes: Count = None,
    inherit: Annotated[bool, typer.Option(help="children start from parents' weights")] = False,
    export: Annotated[Path | None, typer.Option(help="retrain the winner, export it here")] = None,
    force: Annotated[bool, typer.Option(help="replace what --export names")] = False,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Search a space for a task; the same command again resumes."""
    from grammar.errors import StudyError
    from registry.export import check_out
    from search.device import check_device
    from search.display import Display
    from search.launch import Plan
    from search.launch import search as run
    from search.setup import setup_of

    check_device(device)
    setup = setup_of(
        space,
        task=task,
        strategy=strategy,
        seed=seed,
        seed_archs=seed_arch or (),
        epochs=epochs,
        study=study,
        limits=(max_params, max_flops, max_nodes),
        inherit=inherit,
        objectives=objective,
        pruner=pruner,
        proxy=proxy,
    )
    if warm_start is not None:
        from search.learning import warm
        from search.study import open_ledger

        setup = warm(setup, open_ledger(warm_start, storage), warm_top)
    if export is not None:
        check_out(export, force=force)
    plan = Plan(trials=trials, workers=workers, timeout=timeout, device=device, storage=storage)
    projector = tracking()
    with Display(trials, quiet=json) as display:

        def on_poll(record: "SearchRecord") -> None:
            display(record)
            projector.follow(record)

        outcome = run(setup, plan, on_poll)
    ending = outcome.ending
    if ending.reason == "fault":
        projector.push(outcome.record)
        raise StudyError(ending.message)
    finish = export is not None and ending.reason != "stopped"
    if export is not None and finish:
        record = export_winner(setup.name, storage, export, force)
    else:
        record = outcome.record
        projector.push(record)
    if ending.reason != "done" and not json:
        say(ending.message)
    show_summary(record, json)
    if finish and not json:
        say(f"exported and verified: {export}")


def worker(
    study: Study,
    trials: Annotated[int, typer.Option(min=1)] = 40,
    storage: str | None = None,
    device: str = "cpu",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    ops: OpsOption = None,
) -> None:
    """Pull trials from a study until it holds so many."""
    from search.device import check_device
    from search.worker import WorkerSpec, run_worker

    check_device(device)
    spec = WorkerSpec(study=study, trials=trials, storage=storage, threads=threads, device=device)
    ending = run_worker(spec)
    say(f"{ending.reason}: {ending.message}")


def warm(
    space: Text,
    task: TaskOption = None,
    n: Annotated[int, typer.Option("-n", min=1, max=10_000, help="architectures")] = 64,
    seed: int = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="default: half the cores")] = None,
    device: str = "cuda",
    json: Json = False,
) -> None:
    """Compile the kernels that a search of a space will need into Triton's cache on disk."""
    import os
    import time

    from einspace.library import resolve
    from grammar.errors import SpaceError, StudyError
    from search.device import check_device
    from search.tasks import find
    from search.warm import chosen, summary
    from search.warm import warm as compile_ahead

    source, default = resolve(space)
    name = task or default
    if name is None:
        raise SpaceError("nothing says what the space is for", hint="add --task NAME")
    if device == "cpu":
        raise StudyError("a CPU runs no kernels of ours", hint="give --device cuda")
    check_device(device)
    start, rows = time.perf_counter(), []
    nets = chosen(source.text, find(name), n, seed)
    at_once = processes or max(1, len(os.sched_getaffinity(0)) // 2)
    for row in compile_ahead(nets, name, device=device, processes=at_once):
        rows.append(row)
        if not json:
            state = row.error or f"{len(row.compiled)} compiled, {len(row.found)} on disk"
            say(f"{len(rows)}/{len(nets)}  {row.seconds:6.2f} s  {state}  {row.engine}")
    found = summary(rows, time.perf_counter() - start)
    if json:
        return dump(found)
    for text, why in {**dict(found["eager"]), **dict(found["failed"])}.items():  # type: ignore[call-overload]  # JSON's object
        say(f"{why}: {text}")
    say(
        f"{found['kernels']} kernels for {found['architectures']} architectures in "
        f"{found['seconds']} s: {found['compiled']} compiled, {found['hits']} times found on disk"
    )
