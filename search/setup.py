"""What a search is asked for, completed with the task's budget where nothing is said."""

from collections.abc import Sequence
from pathlib import Path

from einspace import opfiles
from einspace.library import resolve
from grammar.errors import SpaceError, StudyError, did_you_mean
from search.kinship import Breeding
from search.objectives import objectives_of
from search.strategies import find as find_strategy
from search.study import Setup, check_pruner
from search.tasks import find


def setup_of(
    space: str,
    *,
    task: str | None,
    strategy: str | None,
    seed: int,
    seed_archs: Sequence[str],
    epochs: int | None,
    study: str | None,
    limits: Sequence[float | None],
    inherit: bool = False,
    objectives: str | None = None,
    pruner: str | None = None,
    proxy: str | None = None,
) -> Setup:
    """The setup of a search; `limits` are of params, flops and nodes, `objectives`
    names with commas between. Several objectives are searched by `pareto` unless told otherwise.

    Raises: SpaceError, StudyError.
    """
    source, default = resolve(space)
    name = task or default
    if name is None:
        raise SpaceError("nothing says what to search for", hint="add --task NAME")
    goal = find(name)
    goals = objectives_of(objectives, goal.metric)
    strategy = strategy or ("pareto" if goals else "evolution")
    if inherit and not isinstance(find_strategy(strategy), Breeding):
        raise StudyError(
            f"strategy {strategy!r} makes no children that could inherit weights",
            hint="leave --inherit away, or search with --strategy evolution",
        )
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
        objectives=goals,
        pruner=check_pruner(pruner, len(goals) or 1),
        inherit=inherit,
        proxy=_proxy(proxy),
        ops=opfiles.given(),
        min_epochs=min(budget.min_epochs, highest),
        seed=seed,
        strategy=strategy,
        max_params=params or budget.max_params,
        max_flops=flops or budget.max_flops,
        max_nodes=nodes,
        seeds=tuple((Path(a).stem[:40], resolve(a)[0].text) for a in seed_archs),
    )


def _proxy(name: str | None) -> str:
    """The name, if there is such a proxy. Raises: StudyError naming what there is."""
    if name is None:
        return ""
    from search.proxies import PROXIES  # imports torch

    if name not in PROXIES:
        raise StudyError(
            f"there is no proxy {name!r}",
            hint=f"{did_you_mean(name, tuple(PROXIES))} There are {', '.join(PROXIES)}",
        )
    return name
