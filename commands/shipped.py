"""What is shipped beside the ops: tasks, spaces, seeds."""

from commands.console import dump, say
from commands.options import Json


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
