"""Training: schedule, statuses, exact averages, determinism, what is read when."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from einspace.load import load
from einspace.result import Result
from search.task import Data, Split
from search.train import Report, evaluate_split, rate, stalled, train
from tests.search.small import TASK
from tests.search.sources import source


def _train(
    trick: str = "pass",
    *,
    epochs: int = 2,
    lr: float = 1e-2,
    seed: int = 0,
    report: Report | None = None,
    model: nn.Module | None = None,
    data: Data | None = None,
) -> Result:
    torch.manual_seed(seed)
    return train(
        model or load(source(trick))(),
        TASK,
        data or TASK.load(0),
        seed=seed,
        epochs=epochs,
        lr=lr,
        weight_decay=0.01,
        report=report,
    )


def test_a_small_net_learns_digits_and_says_what_it_cost() -> None:
    seen: list[tuple[int, float]] = []

    def tell(epoch: int, value: float) -> bool:
        seen.append((epoch, value))
        return False

    result = _train(epochs=4, report=tell)
    assert result.status == "ok"
    assert result.value is not None
    assert result.value > 0.85
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4]
    assert result.curves["val_acc"] == tuple(value for _, value in seen)
    assert set(result.curves) == {"train_loss", "val_loss", "val_acc"}
    assert result.curves["train_loss"][-1] < result.curves["train_loss"][0]
    assert result.metrics["epochs"] == 4
    assert result.metrics["steps"] == 80
    assert result.metrics["params"] == 8 * 10 + 8 * 16 * 10 + 10
    assert {"seconds", "cpu_seconds", "peak_bytes"} <= set(result.metrics)


def test_the_same_seed_gives_the_same_curves_and_another_does_not() -> None:
    first, second, other = _train(seed=1), _train(seed=1), _train(seed=2)
    assert first.curves == second.curves
    assert first.curves != other.curves


def test_statistics_are_handed_to_update_after_every_step() -> None:
    model = load(source())()
    _train(model=model)
    assert float(model.get_buffer("steps")) == 40


def test_a_true_answer_prunes_but_not_before_min_epochs_nor_at_the_end() -> None:
    result = _train(epochs=3, report=lambda epoch, value: epoch == 2)
    assert (result.status, result.metrics["epochs"]) == ("pruned", 2)
    assert result.value == result.curves["val_acc"][-1]
    assert _train(epochs=2, report=lambda epoch, value: epoch == 2).status == "ok"
    patient = replace(TASK, budget=replace(TASK.budget, min_epochs=3))
    late = train(
        load(source())(),
        patient,
        TASK.load(0),
        seed=0,
        epochs=5,
        lr=1e-2,
        weight_decay=0.0,
        report=lambda epoch, value: True,
    )
    assert (late.status, late.metrics["epochs"]) == ("pruned", 3)


def test_a_loss_that_is_not_finite_ends_the_trial_within_the_epoch() -> None:
    result = _train("y = y * float('nan')")
    assert (result.status, result.value) == ("nan", None)
    assert result.metrics["steps"] == 16
    assert "not finite" in result.error


def test_the_auxiliary_loss_is_trained() -> None:
    model = load(source().replace("y.new_zeros(())", "100 * self.head.bias.square().sum()"))()
    with torch.no_grad():
        model.get_parameter("head.bias").fill_(1.0)
    _train(model=model, epochs=3)
    assert float(model.get_parameter("head.bias").detach().abs().max()) < 0.8


def test_only_matrices_decay() -> None:
    plain = load(source())()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.fill_(0.5)
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    frozen = replace(TASK, loss=lambda y, target: 0.0 * y.sum())
    train(plain, frozen, TASK.load(0), seed=0, epochs=1, lr=0.1, weight_decay=1.0)
    for name, parameter in plain.named_parameters():
        unchanged = torch.equal(parameter, before[name])
        assert unchanged == (parameter.dim() <= 1), name


def test_the_rate_rises_then_falls_along_a_cosine_to_zero() -> None:
    rates = [rate(step, 200) for step in range(200)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == 1.0
    assert rates[105] == pytest.approx(0.5)
    assert rates[10:] == sorted(set(rates[10:]), reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert rate(0, 1) == 1.0


class _Echo(nn.Module):
    """Answers with the class that the first pixel names."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 10).float()


@pytest.mark.parametrize("batch", [1, 4, 7, 64])
def test_the_metric_of_a_part_is_exact_for_any_batch_size(batch: int) -> None:
    x = torch.zeros(11, 1, 8, 8)
    x[:, 0, 0, 0] = torch.arange(11) % 10
    y = torch.arange(11) % 10
    y[:3] = 9
    assert evaluate_split(_Echo(), TASK, Split(x, y), batch) == pytest.approx(8 / 11)


def test_a_final_training_reads_train_and_validation_and_the_test_once() -> None:
    data = TASK.load(0)
    reads: list[int] = []

    def score(y: Tensor, target: Tensor) -> tuple[float, int]:
        reads.append(len(target))
        return TASK.score(y, target)

    torch.manual_seed(0)
    result = train(
        load(source())(),
        replace(TASK, score=score, steps_per_epoch=None),
        data,
        seed=0,
        epochs=2,
        lr=1e-2,
        weight_decay=0.0,
        report=lambda epoch, value: pytest.fail("a final training reports nothing"),
        measure="test",
    )
    assert sum(reads) == 270
    assert result.metrics["steps"] == 2 * ((1257 + 270) // 32)
    assert set(result.curves) == {"train_loss", "test_loss", "test_acc"}
    assert result.value == result.curves["test_acc"][0]
    assert len(result.curves["train_loss"]) == 2


def test_only_the_leading_rows_are_validated_where_the_task_says_so() -> None:
    data = TASK.load(0)
    wrong = data.val.y.clone()
    wrong[50:] = (wrong[50:] + 1) % 10
    short = replace(TASK, val_items=50)
    changed = replace(data, val=Split(data.val.x, wrong))
    values = []
    for given in (data, changed):
        torch.manual_seed(0)
        model = load(source())()
        values.append(train(model, short, given, seed=0, epochs=1, lr=1e-2, weight_decay=0.0).value)
    assert values[0] == values[1]
    assert not math.isclose(values[0] or 0.0, 0.0)


def test_a_training_needs_an_epoch() -> None:
    with pytest.raises(ValueError, match="epochs=0"):
        _train(epochs=0)


def test_patience_counts_epochs_without_a_better_value() -> None:
    task = replace(TASK, budget=replace(TASK.budget, patience=2, min_epochs=1))
    up, down = replace(task, direction="maximize"), replace(task, direction="minimize")
    assert not stalled(up, [0.5, 0.4])
    assert stalled(up, [0.5, 0.4, 0.5])
    assert not stalled(up, [0.5, 0.4, 0.6])
    assert stalled(down, [0.5, 0.6, 0.5])
    assert not stalled(down, [0.5, 0.6, 0.4])
    assert not stalled(TASK, [0.5, 0.4, 0.3, 0.2, 0.1])
    late = replace(up, budget=replace(up.budget, min_epochs=4))
    assert not stalled(late, [0.5, 0.4, 0.3])


def test_a_training_that_no_longer_gains_ends_early_as_ok() -> None:
    task = replace(TASK, budget=replace(TASK.budget, patience=1))
    torch.manual_seed(0)
    net = load(source("pass"))()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    next(iter(net.parameters())).requires_grad_(True)
    result = train(net, task, TASK.load(0), seed=0, epochs=9, lr=0.0, weight_decay=0.0)
    assert result.status == "ok"
    assert result.metrics["epochs"] == 2
    assert len(result.curves["val_acc"]) == 2
