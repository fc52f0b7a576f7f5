"""What a search is asked for, completed with the task's budget where nothing is said."""

from collections.abc import Sequence
from pathlib import Path

from einspace.library import resolve
from grammar.errors import SpaceError
from search.study import Setup
from search.tasks import find


def setup_of(
    space: str,
    *,
    task: str | None,
    strategy: str,
    seed: int,
    seed_archs: Sequence[str],
    epochs: int | None,
    study: str | None,
    limits: Sequence[float | None],
) -> Setup:
    """The setup of a search; `limits` are of params, flops and nodes.

    Raises: SpaceError, StudyError.
    """
    source, default = resolve(space)
    name = task or default
    if name is None:
        raise SpaceError("nothing says what to search for", hint="add --task NAME")
    goal = find(name)
    budget = goal.budget
    label = source.name.rsplit(".", 1)[0].strip("<>")
    params, flops, nodes = (None if v is None else int(v) for v in limits)
    highest = epochs or budget.epochs
    return Setup(
        name=study or f"{label}-{goal.name}",
        space=label,
        space_text=source.text,
        task=goal.ref or goal.name,
        objective=goal.metric,
        direction=goal.direction,
        epochs=highest,
        min_epochs=min(budget.min_epochs, highest),
        seed=seed,
        strategy=strategy,
        max_params=params or budget.max_params,
        max_flops=flops or budget.max_flops,
        max_nodes=nodes,
        seeds=tuple((Path(a).stem[:40], resolve(a)[0].text) for a in seed_archs),
    )
