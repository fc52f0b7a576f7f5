"""One architecture on one task, outside any study."""

import os
from collections.abc import Callable

from einspace.compile import compile_text
from einspace.library import resolve
from grammar.errors import SpaceError
from search.evaluate import Evaluator, Job
from search.tasks import find


def train_text(
    text: str,
    *,
    task: str | None,
    epochs: int | None,
    lr: float,
    weight_decay: float,
    seed: int,
    threads: int | None,
    final: bool,
    tell: Callable[[str], None],
) -> dict[str, object]:
    """Train in a warm child process and say what came of it; `final` reads the test split.

    Raises: SpaceError, DataError, StudyError.
    """
    source, default = resolve(text)
    name = task or default
    if name is None:
        raise SpaceError("nothing says what to train for", hint="add --task NAME")
    goal = find(name)
    compiled = compile_text(source.text, goal.interface, source.name)
    job = Job(
        source=compiled.source,
        eager=compiled.eager,
        seed=seed,
        epochs=epochs or goal.budget.epochs,
        lr=lr,
        weight_decay=weight_decay,
        split="final" if final else "search",
    )

    def report(epoch: int, value: float) -> bool:
        tell(f"epoch {epoch}: {goal.metric} {value:.4f}")
        return False

    with Evaluator(goal, threads=threads or len(os.sched_getaffinity(0))) as evaluator:
        result = evaluator.run(job, report)
    return {
        "task": goal.name,
        "text": compiled.text,
        "hash": compiled.hash,
        "params": compiled.params,
        "status": result.status,
        "metric": goal.metric,
        "value": result.value,
        "split": "test" if final else "validation",
        "metrics": dict(result.metrics),
        "error": result.error,
        "engine": result.engine,
    }
