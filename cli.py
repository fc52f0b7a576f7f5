"""The command line: the table of commands, and one place where a user's fault is told.

What a command does is in `commands/`; its help is the function's docstring.
"""

import os
import sys

import typer

from commands import architecture, bench, model, ops, search, shipped, space, study
from commands.console import complain, dump

COMMANDS = (
    architecture.check,
    architecture.show,
    architecture.fmt,
    architecture.code,
    space.sample,
    space.space,
    space.prob,
    shipped.tasks,
    shipped.spaces,
    shipped.seeds,
    search.train,
    search.search,
    search.worker,
    search.warm,
    study.status,
    study.best,
    study.learn,
    study.report,
    study.repair,
    model.export,
    model.verify,
    model.ui,
    bench.bench,
)

app = typer.Typer(
    name="einspace",
    help="Neural architectures as text: check, compile, search, track, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(ops.group, name="ops")


def main() -> None:
    """Run the command line; a fault of the user is one message and exit code 2."""
    from grammar.errors import UserError

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        app()
    except UserError as error:
        if "--json" in sys.argv:
            dump({"ok": False, "errors": [error.as_dict()]})
        else:
            complain(error.render())
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
