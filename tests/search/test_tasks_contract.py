"""Every shipped task keeps the contract, and each clause finds the task that breaks it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from einspace.interface import Interface
from grammar.errors import DataError, StudyError
from ops.spec import image, scores, tokens
from search.contract import Checked, check_task
from search.scores import cross_entropy
from search.task import Data, Split, Task
from search.tasks import find, names
from search.tasks.digits import TASK as DIGITS


def _checked(name: str) -> Checked:
    try:
        return check_task(find(name))
    except DataError as error:
        if "is not installed" in error.message:
            pytest.skip(f"{error.message}: {error.hint}")
        raise


@pytest.mark.parametrize("name", names())
def test_a_shipped_task_keeps_the_contract(name: str) -> None:
    found = _checked(name)
    assert found.task == name
    assert min(found.rows) >= 41
    assert found.blind != found.best


def _changed(**parts: Split) -> Task:
    """Digits with other parts."""
    data = DIGITS.load(0)
    return replace(DIGITS, load=lambda seed: replace(data, **parts))


def _draws_anew(seed: int) -> Data:
    data = DIGITS.load(0)
    order = torch.randperm(len(data.train))
    return replace(data, train=Split(data.train.x[order], data.train.y[order]))


def _unseeded(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + torch.rand(len(x), 1, 1, 1)


def _broken() -> dict[str, tuple[Task, str]]:
    train, val = DIGITS.load(0).train, DIGITS.load(0).val
    interface = DIGITS.interface
    return {
        "name": (replace(DIGITS, name="My task"), "its name is 'My task'"),
        "inputs": (
            replace(DIGITS, interface=Interface({"a": image(1, 8, 8), "b": image(1, 8, 8)})),
            "its inputs are",
        ),
        "budget": (
            replace(DIGITS, budget=replace(DIGITS.budget, min_epochs=99)),
            "its budget is",
        ),
        "labels": (_changed(val=Split(val.x, val.y[1:])), "270 inputs, 269 labels"),
        "shape": (_changed(val=Split(val.x[..., 1:], val.y)), r"shape \(1, 8, 7\)"),
        "finite": (_changed(val=Split(val.x / 0, val.y)), "not finite"),
        "vocabulary": (
            replace(
                _changed(train=Split(train.x.flatten(1).long() + 9, train.y)),
                interface=replace(interface, inputs={"x": tokens(64, 9)}),
            ),
            "the vocabulary is 9",
        ),
        "leak": (_changed(val=train), "inputs are both in train and in validation"),
        "seed": (replace(DIGITS, load=_draws_anew), "loading twice"),
        "provenance": (
            replace(DIGITS, load=lambda seed: replace(DIGITS.load(seed), provenance="?")),
            "provenance",
        ),
        "augment": (replace(DIGITS, augment=_unseeded), "differs with one seed"),
        "reshapes": (replace(DIGITS, augment=lambda x, g: x.flatten(1)), "augmentation turns"),
        "loss shape": (replace(DIGITS, loss=lambda y, t: y.sum(1)), r"has shape \(32,\)"),
        "constant": (replace(DIGITS, loss=lambda y, t: (y * 0).sum()), "no finite gradient"),
        "wrong way": (
            replace(DIGITS, loss=lambda y, t: -cross_entropy(y, t)),
            "as the loss falls",
        ),
        "mean": (
            replace(DIGITS, score=lambda y, t: (float((y.argmax(1) == t).float().mean()), 1)),
            "scores of two halves",
        ),
        "outputs": (
            replace(
                DIGITS,
                interface=replace(interface, target=scores(20)),
                metric="acc",
                loss=lambda y, t: cross_entropy(y[:, :10], t),
                score=lambda y, t: (float((y[:, 10:].argmax(1) == t).sum()), len(t)),
            ),
            "as the loss falls",
        ),
    }


@pytest.mark.parametrize("clause", _broken())
def test_a_broken_clause_is_named(clause: str) -> None:
    task, fault = _broken()[clause]
    with pytest.raises(StudyError, match=fault) as caught:
        check_task(task)
    assert caught.value.hint


def test_equal_rows_may_be_allowed() -> None:
    data = DIGITS.load(0)
    task = _changed(val=Split(data.train.x[:64], data.train.y[:64]))
    assert check_task(task, disjoint=False).rows == (1257, 64, 270)


def test_padding_before_a_token_is_found() -> None:
    x = torch.tensor([[1, 2, 0], [3, 0, 4]])
    part = Split(x, torch.tensor([0, 1]))
    data = Data(part, part, part, "here 5", "5")
    task = replace(
        DIGITS,
        interface=Interface({"x": tokens(3, 5, may_pad=True)}, target=scores(2)),
        load=lambda seed: data,
    )
    with pytest.raises(StudyError, match="padding before a token"):
        check_task(task)
