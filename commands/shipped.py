"""What is shipped: ops, tasks, spaces, seeds."""

from typing import Annotated

import typer

from commands.console import dump, say
from commands.options import Json


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
        say(inspect.getdoc(module) or "")
        for param, domain in rows[name].params.items():
            say(f"  {param} = {domain.default!r}: {domain.describe()}")
        return
    if action != "list":
        raise SpaceError(f"'ops {action}' is not a command", hint="ops list, or ops show NAME")
    found = describe()
    if json:
        return dump(found)
    for row in found:
        say("{name:<16} {family:<10} {words}".format(words=", ".join(row["params"]), **row))


def tasks(json: Json = False) -> None:
    """List the tasks."""
    from search.tasks import describe

    rows = describe()
    if json:
        return dump(rows)
    for row in rows:
        kinds = ", ".join(row["inputs"].values())
        say(f"{row['name']:<14} {kinds} -> {row['target']}   {row['metric']}: {row['about']}")


def _list(kind: str, as_json: bool) -> None:
    from einspace.library import shipped

    rows = shipped("spaces" if kind == "spaces" else "seeds").values()
    if as_json:
        return dump([{"name": r.name, "about": r.about, "task": r.task} for r in rows])
    for row in rows:
        say(f"{row.name:<14} {row.task or '-':<12} {row.about}")


def spaces(json: Json = False) -> None:
    """List the shipped search spaces."""
    _list("spaces", json)


def seeds(json: Json = False) -> None:
    """List the shipped seed architectures."""
    _list("seeds", json)
