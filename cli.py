"""The command line: parses arguments, calls one function, prints.

Heavy imports stay inside the commands, so that `--help` is quick.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from einspace.frame import Frame
    from einspace.result import SearchRecord
    from registry.tracker import Projector

app = typer.Typer(
    name="einspace",
    help="Neural architectures as text: check, compile, search, track, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Text = Annotated[str, typer.Argument(help="a file, a shipped name or the text itself")]
TaskOption = Annotated[str | None, typer.Option("--task", help="fit it to this task")]
InputOption = Annotated[str | None, typer.Option("--input", help="a type such as 'seq[256,64]'")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, errors too")]
Count = Annotated[float | None, typer.Option(help="at most this many")]
Depth = Annotated[float | None, typer.Option(help="ops on the longest path, at most")]
Memory = Annotated[float | None, typer.Option(help="bytes of activations a sample, at most")]
Set = Annotated[list[str] | None, typer.Option(help="name=number of a let value")]
Runs = Annotated[str, typer.Argument(help="the name of a study")]


# -- helpers -------------------------------------------------------------------------------------


def _say(message: str) -> None:
    typer.echo(message)


def _dump(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


# -- one architecture ----------------------------------------------------------------------------


@app.command()
def check(
    text: Text, task: TaskOption = None, input: InputOption = None, json: Json = False
) -> None:
    """Prove that an architecture fits: types, parameters, FLOPs, causality."""
    from search.texts import compiled, facts

    found = compiled(text, task, input)
    if json:
        return _dump(facts(found))
    _say(found.text)
    _say(f"{found.input} -> {found.output}   id {found.hash}")
    _say(f"{found.params:,} parameters, {found.flops:,} FLOPs, {found.state_bytes:,} state bytes")
    _say(f"{found.nodes} nodes, depth {found.depth}, {'causal' if found.causal else 'not causal'}")


@app.command()
def show(
    text: Text,
    task: TaskOption = None,
    input: InputOption = None,
    out: Annotated[Path | None, typer.Option("-o", help="x.svg, x.png or x.txt")] = None,
) -> None:
    """Draw an architecture: as text here, or to an SVG, PNG or text file."""
    from einspace.draw import to_text
    from einspace.render import save
    from search.texts import compiled

    found = compiled(text, task, input)
    if out is None:
        return _say(to_text(found.graph))
    save(found.graph, out)
    _say(f"wrote {out}")


@app.command()
def fmt(text: Text) -> None:
    """Print a text in canonical form."""
    from einspace.library import resolve
    from grammar.show import fmt as canonical

    source, _ = resolve(text)
    _say(canonical(source.text, source.name))


@app.command()
def code(text: Text, task: TaskOption = None, input: InputOption = None) -> None:
    """Print the PyTorch file that an architecture compiles to."""
    from search.texts import compiled

    _say(compiled(text, task, input).source)


def _frame(
    space: str, task: str | None, input: str | None, set: list[str] | None, **limits: float | None
) -> "Frame":
    from einspace.frame import frame
    from search.texts import meant, values

    _, interface = meant(space, task, input)
    whole = {name: None if v is None else int(v) for name, v in limits.items()}
    return frame(space, interface, values=values(set or ()), **whole)


@app.command()
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
            _dump({name: getattr(found, name) for name in names})
        else:
            _say(f"{found.hash}  {found.params:>10,} parameters  {found.text}")


@app.command("space")
def space_(
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
) -> None:
    """Measure a space: derivations by size, entropy, what of it fits, ranges of cost."""
    from einspace.space_report import lines, space_report

    limits = {"max_params": max_params, "max_flops": max_flops, "max_nodes": max_nodes}
    limits |= {"max_depth": max_depth, "max_memory": max_memory}
    report = space_report(_frame(space, task, input, set, **limits))
    if json:
        return _dump(report)
    for line in lines(report):
        _say(line)


@app.command()
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
        return _dump({**facts, "kind": found.kind, "trace": dict(found.trace)})
    _say(f"log-probability {found.log_prob:.6f}, probability {math.exp(found.log_prob):.3g}")
    _say(f"{found.derivations} derivations ({found.kind})")


# -- what is shipped -----------------------------------------------------------------------------


@app.command()
def ops(
    action: Annotated[str, typer.Argument(help="list, or show")] = "list",
    name: Annotated[str | None, typer.Argument(help="an op, for show")] = None,
    json: Json = False,
) -> None:
    """List the words of the language, or show one."""
    import inspect

    from grammar.errors import SpaceError, did_you_mean
    from ops import describe, table

    rows = table()
    if action == "show":
        if name is None or name not in rows:
            raise SpaceError(f"there is no op {name!r}", hint=did_you_mean(name or "", rows))
        module = inspect.getmodule(rows[name].module)
        assert module is not None
        _say(inspect.getdoc(module) or "")
        for param, domain in rows[name].params.items():
            _say(f"  {param} = {domain.default!r}: {domain.describe()}")
        return
    if action != "list":
        raise SpaceError(f"'ops {action}' is not a command", hint="ops list, or ops show NAME")
    found = describe()
    if json:
        return _dump(found)
    for row in found:
        _say("{name:<16} {family:<10} {words}".format(words=", ".join(row["params"]), **row))


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks."""
    from search.tasks import describe

    rows = describe()
    if json:
        return _dump(rows)
    for row in rows:
        kinds = ", ".join(row["inputs"].values())
        _say(f"{row['name']:<14} {kinds} -> {row['target']}   {row['metric']}: {row['about']}")


def _list(kind: str, as_json: bool) -> None:
    from einspace.library import shipped

    rows = shipped("spaces" if kind == "spaces" else "seeds").values()
    if as_json:
        return _dump([{"name": r.name, "about": r.about, "task": r.task} for r in rows])
    for row in rows:
        _say(f"{row.name:<14} {row.task or '-':<12} {row.about}")


@app.command()
def spaces(json: Json = False) -> None:
    """List the shipped search spaces."""
    _list("spaces", json)


@app.command()
def seeds(json: Json = False) -> None:
    """List the shipped seed architectures."""
    _list("seeds", json)


# -- searches ------------------------------------------------------------------------------------


def _summary(record: "SearchRecord") -> dict[str, Any]:
    from search.summary import summary

    return summary(record, _projector().runs(record.study))


def _show_summary(record: "SearchRecord", as_json: bool) -> None:
    from search.summary import lines

    facts = _summary(record)
    if as_json:
        return _dump(facts)
    for line in lines(facts):
        _say(line)


@app.command()
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
        return _dump(facts)
    _say("{status}: {split} {metric} {value}, {params:,} parameters".format(**facts))
    if facts["error"]:
        _say(str(facts["error"]))


@app.command()
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
    projector = _projector()
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
        record = _finish(setup.name, storage, export, force)
    else:
        record = outcome.record
        projector.push(record)
    if ending.reason != "done" and not json:
        _say(ending.message)
    _show_summary(record, json)
    if finish and not json:
        _say(f"exported and verified: {export}")


def _projector() -> "Projector":
    """Shows searches in MLflow; a failure is told on stderr and never ends a search."""
    from registry.tracker import Projector, tracking_uri
    from search.storage import runs_dir

    return Projector(tracking_uri(runs_dir()), lambda text: typer.echo(text, err=True))


def _finish(
    name: str,
    storage: str | None,
    out: Path,
    force: bool,
    fmt: str = "folder",
    trial: int | None = None,
) -> "SearchRecord":
    """Retrain the winner, or the trial of a number, with three seeds, read the test split once
    each, export and register."""
    from einspace.compile import compile_text
    from registry.card import final_facts
    from registry.export import export as write
    from registry.export import load_weights
    from registry.store import try_register
    from search.final import finalise, weights_path
    from search.study import open_ledger
    from search.tasks import find

    ledger = open_ledger(name, storage)
    final = finalise(ledger, trial=trial)
    record = _record(name, storage)
    compiled = compile_text(final.text, find(record.task).interface)
    weights = load_weights(weights_path(ledger, final))
    write(compiled, weights, out, facts=final_facts(record), force=force, fmt=fmt)
    projector = _projector()
    if projector.push(record):  # The registry names the run that a model comes from.
        try_register(out, projector.uri, name, projector.tell, trial=final.trial)
    return record


@app.command()
def worker(
    study: Runs,
    trials: Annotated[int, typer.Option(min=1)] = 40,
    storage: str | None = None,
    device: str = "cpu",
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Pull trials from a study until it holds so many."""
    from search.device import check_device
    from search.worker import WorkerSpec, run_worker

    check_device(device)
    spec = WorkerSpec(study=study, trials=trials, storage=storage, threads=threads, device=device)
    ending = run_worker(spec)
    _say(f"{ending.reason}: {ending.message}")


def _record(study: str, storage: str | None) -> "SearchRecord":
    from search.records import search_record
    from search.study import open_ledger

    return search_record(open_ledger(study, storage))


@app.command()
def status(study: Runs, storage: str | None = None, json: Json = False) -> None:
    """The trials of a study."""
    from rich.console import Console

    from search.display import trial_table

    record = _record(study, storage)
    if not json:
        Console().print(trial_table(record.trials, record.metric, record.objectives))
    _show_summary(record, json)


@app.command()
def best(study: Runs, storage: str | None = None, json: Json = False) -> None:
    """The best architecture of a study."""
    _show_summary(_record(study, storage), json)


@app.command()
def learn(
    study: Runs,
    out: Annotated[Path, typer.Option("-o", help="the space file to write")],
    top: Annotated[float, typer.Option(help="the share of finished trials that teach")] = 0.2,
    strength: Annotated[float, typer.Option(help="observations the own weights count")] = 1.0,
    storage: str | None = None,
    force: Annotated[bool, typer.Option(help="replace an existing file")] = False,
    json: Json = False,
) -> None:
    """Write a study's space with the weights that its best trials teach."""
    from search.learning import learn as teach
    from search.learning import save
    from search.study import open_ledger

    found = teach(open_ledger(study, storage), top=top, strength=strength)
    save(found, out, force=force)
    if json:
        return _dump({"out": str(out), "taught": found.taught, "left_out": found.left_out})
    _say(f"wrote {out}: {len(found.taught)} trials taught, {len(found.left_out)} could not")


@app.command()
def report(
    study: Runs,
    out: Annotated[Path, typer.Option("-o")] = Path("report.html"),
    storage: str | None = None,
) -> None:
    """Write the report page of a study."""
    from grammar.errors import ExportError
    from registry.report import report_page

    page = report_page(_record(study, storage))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"cannot write {out}: {error.strerror or error}", hint="give another file with -o"
        ) from error
    _say(f"wrote {out}")


@app.command()
def repair(study: Runs, storage: str | None = None) -> None:
    """Bring MLflow up to date with the study."""
    if _projector().push(_record(study, storage)):
        _say(f"MLflow shows study {study}")


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="a study, a trial's MLflow run, or an architecture")],
    out: Annotated[Path, typer.Option("-o", help="the folder to write")],
    task: TaskOption = None,
    input: InputOption = None,
    storage: str | None = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="of a study, such as one of the front; default: best")
    ] = None,
    force: Annotated[bool, typer.Option(help="replace a non-empty folder")] = False,
    format: Annotated[str, typer.Option(help="folder, pt2, onnx, hf")] = "folder",
) -> None:
    """Write a standalone folder: model.py, weights, card. Runs it before reporting success."""
    from grammar.errors import SpaceError
    from registry.export import check_out
    from registry.export import export as write
    from registry.formats import check_format
    from registry.tracker import trial_of
    from search.storage import known_studies
    from search.texts import compiled

    check_format(format)
    check_out(out, force=force)
    if trial is None and re.fullmatch("[0-9a-f]{32}", what):  # what MLflow calls its runs
        what, trial = trial_of(_projector().uri, what) or (what, None)
    if what in known_studies():
        _finish(what, storage, out, force, format, trial)
    elif trial is not None:
        raise SpaceError(f"trial {trial} of what? {what!r} is no study", hint="leave --trial away")
    else:
        facts = {"weights": "untrained, seed 0"}
        write(compiled(what, task, input), None, out, facts=facts, force=force, fmt=format)
    _say(f"exported and verified: {out}")


@app.command()
def verify(folder: Path, json: Json = False) -> None:
    """Run an exported folder's code in a clean interpreter and compare its outputs."""
    from grammar.errors import ExportError
    from registry.verify import verify as run

    found = run(folder)
    if json:
        _dump({"ok": found.ok, "max_abs_diff": found.max_abs_diff, "imports": list(found.imports)})
    else:
        _say(f"largest difference {found.max_abs_diff:g}; imports {', '.join(found.imports)}")
    if not found.ok:
        raise ExportError(f"{folder} does not give the outputs it was exported with")


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open MLflow's pages on 127.0.0.1."""
    from registry.tracker import tracking_uri
    from registry.ui import serve
    from search.storage import runs_dir

    serve(tracking_uri(runs_dir()), port)


# -- entry ---------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; a fault of the user is one message and exit code 2."""
    from grammar.errors import UserError

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        app()
    except UserError as error:
        if "--json" in sys.argv:
            _dump({"ok": False, "errors": [error.as_dict()]})
        else:
            typer.echo(error.render(), err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
