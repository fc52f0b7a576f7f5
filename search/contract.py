"""The contract of a task: what everything that trains on it takes for granted, checked.

    python -m search.contract my_task.py        the same for a name, a folder or a csv

Checked are: types give shapes; the parts share no row; the seed alone decides the data; the loss is
finite, differentiable, and its minimum is the best value of the metric; scores add up;
augmentation and batches keep types and repeat by seed. The test suite runs this for every shipped
task.
"""

import re
import sys
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from grammar.errors import StudyError, UserError
from ops.spec import TensorType
from search.task import Data, Split, Task

ROWS = 32  # rows that losses and scores are tried on
STEPS, RATE = 400, 0.1
KINDS = ("tokens", "seq", "image", "vec", "scores")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: rows of each part, the metric of a blind guess and of the loss's minimum."""

    task: str
    rows: tuple[int, int, int]
    blind: float
    best: float


def check_task(task: Task, *, seed: int = 0, disjoint: bool = True) -> Checked:
    """Load the data twice and check every clause; seconds, mostly those of loading.

    `disjoint=False` allows equal inputs in two parts, as real collections may hold.
    Raises: StudyError that names the clause; DataError if the data cannot be read.
    """
    _names(task)
    data = task.load(seed)
    parts = {"train": data.train, "validation": data.val, "test": data.test}
    for name, part in parts.items():
        _types(task, name, part)
    if disjoint:
        _disjoint(parts)
    _repeats(task, data, seed)
    _randomness(task, data.train)
    blind, best = _loss(task, data.val)
    return Checked(task.name, (len(data.train), len(data.val), len(data.test)), blind, best)


def _fail(clause: str, hint: str) -> NoReturn:
    raise StudyError(f"the task breaks its contract: {clause}", hint=hint)


def _names(task: Task) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", task.name):
        _fail(f"its name is {task.name!r}", "names are lower case letters, digits and _")
    kinds = [t.kind for t in task.interface.inputs.values()]
    if len(kinds) != 1 or kinds[0] not in KINDS or task.interface.target is None:
        _fail(f"its inputs are {kinds}", f"give one input among {', '.join(KINDS)}, and a target")
    if not task.about or not task.metric:
        _fail("it does not say what it is about, or its metric", "fill `about` and `metric`")
    if task.direction not in ("maximize", "minimize"):
        _fail(f"its direction is {task.direction!r}", "say maximize or minimize")
    budget = task.budget
    if not 1 <= budget.min_epochs <= budget.epochs or budget.batch < 1 or budget.final_factor < 1:
        _fail(f"its budget is {budget}", "1 <= min_epochs <= epochs; batch and final_factor >= 1")


def _types(task: Task, name: str, part: Split) -> None:
    (wanted,) = task.interface.inputs.values()
    if not len(part) or len(part.x) != len(part.y):
        _fail(f"{name} has {len(part.x)} inputs, {len(part.y)} labels", "a label for each input")
    if tuple(part.x.shape[1:]) != wanted.shape:
        _fail(
            f"an input of {name} has shape {tuple(part.x.shape[1:])}, its type is {wanted}",
            "x is [N, *shape of the type]",
        )
    if wanted.kind == "tokens":
        _tokens(name, part.x, wanted)
    elif part.x.dtype != torch.float32 or not bool(part.x.isfinite().all()):
        _fail(f"{name} holds {part.x.dtype}, or numbers not finite", "x is finite float32")
    if wanted.may_pad:
        real = part.x != 0 if wanted.kind == "tokens" else (part.x != 0).any(-1)
        if bool((real[:, 1:] & ~real[:, :-1]).any()) or not bool(real[:, 0].all()):
            _fail(f"{name} has padding before a token", "zeros stand only after the end of a row")


def _tokens(name: str, x: Tensor, wanted: TensorType) -> None:
    if x.dtype != torch.int64 or int(x.min()) < 0 or int(x.max()) >= (wanted.vocab or 0):
        _fail(
            f"{name} holds {x.dtype} from {x.min()} to {x.max()}, the vocabulary is {wanted.vocab}",
            "tokens are int64 below `vocab`",
        )


def _disjoint(parts: dict[str, Split]) -> None:
    rows = {n: {row.numpy().tobytes() for row in part.x} for n, part in parts.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = len(rows[first] & rows[second])
        if shared:
            _fail(
                f"{shared} inputs are both in {first} and in {second}",
                "split by what must stay unseen, or call check_task with disjoint=False",
            )


def _repeats(task: Task, data: Data, seed: int) -> None:
    again = task.load(seed)
    for a, b in ((data.train, again.train), (data.val, again.val), (data.test, again.test)):
        if not (torch.equal(a.x, b.x) and torch.equal(a.y, b.y)):
            _fail("loading twice with one seed gives other data", "draw from the seed alone")
    if data.sha256 != again.sha256 or not data.sha256 or data.sha256 not in data.provenance:
        _fail("its provenance does not hold the data's sha256", "say where the data come from")


def _randomness(task: Task, part: Split) -> None:
    def drawn() -> Split:
        generator = torch.Generator().manual_seed(7)
        x, y = part.x[:ROWS].clone(), part.y[:ROWS]
        if task.batch is not None:
            x, y = task.batch(part, generator, ROWS)
            if len(x) != ROWS:
                _fail(f"a batch of {ROWS} has {len(x)} rows", "`batch` gives `size` rows")
        if task.augment is not None:
            before = x.clone()
            x = task.augment(x, generator)
            if x.shape != before.shape or x.dtype != before.dtype:
                _fail(f"augmentation turns {before.shape} into {x.shape}", "keep shape and dtype")
        return Split(x, y)

    first, second = drawn(), drawn()
    _types(task, "a training batch", first)
    if not (torch.equal(first.x, second.x) and torch.equal(first.y, second.y)):
        _fail("a training batch differs with one seed", "draw from the generator that is handed in")


def _loss(task: Task, part: Split) -> tuple[float, float]:
    """The metric of random outputs, and of outputs moved down the loss."""
    target = task.interface.target
    assert target is not None
    labels = part.y[:ROWS]
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(len(labels), *target.shape, generator=generator).requires_grad_()
    blind = _value(task, y, labels)
    loss = task.loss(y, labels)
    if loss.dim() or not bool(loss.isfinite()):
        _fail(
            f"its loss of {target} has shape {tuple(loss.shape)}, value {loss.mean():.3g}",
            "the loss is one finite number",
        )
    (gradient,) = torch.autograd.grad(loss, y)
    if not bool(gradient.isfinite().all()) or not bool((gradient != 0).any()):
        _fail("its loss has no finite gradient", "use differentiable operations of torch")
    optimiser = torch.optim.Adam([y], lr=RATE)
    for _ in range(STEPS):
        optimiser.zero_grad()
        torch.autograd.backward(task.loss(y, labels))
        optimiser.step()
    best = _value(task, y, labels)
    better = best > blind if task.direction == "maximize" else best < blind
    if not better or (task.metric == "acc" and best != 1.0):
        _fail(
            f"{task.metric} goes from {blind:.4g} to {best:.4g} as the loss falls to its minimum",
            "loss, score and direction must want the same; an accuracy ends at 1",
        )
    return blind, best


def _value(task: Task, y: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        total, count = task.score(y, labels)
        cut = len(labels) // 3 or 1
        halves = [task.score(y[:cut], labels[:cut]), task.score(y[cut:], labels[cut:])]
    if len(labels) > 1:
        near = abs(sum(h[0] for h in halves) - total) <= 1e-4 * max(1.0, abs(total))
        if not near or sum(h[1] for h in halves) != count or count < 1:
            _fail(f"the scores of two halves are {halves}, of both {(total, count)}", "give sums")
    return total / count


def main(argument: str) -> None:
    """Print what was found, or the fault with exit code 2."""
    from search.tasks import find

    try:
        print(check_task(find(argument)))
    except UserError as error:
        print(error.render(), file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m search.contract TASK")
    main(sys.argv[1])
