"""The step that is captured: same numbers as plain training, no trace of its preparation."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einspace.compile import compile_space, compile_text
from einspace.interface import Interface
from einspace.load import load
from grammar.parse import parse
from ops import table
from ops.spec import seq, tokens
from search.capture import BROKEN, CHUNK, Captured, NotCapturable, Pass, record
from search.feed import Feed, Order
from search.task import Split, Task
from search.tasks.mnist5k import shift
from search.train import averages, rate, train
from tests.search.small import TASK
from tests.search.sources import source

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _feed(task: Task = TASK, device: str = "cpu", seed: int = 0) -> Feed:
    part = TASK.load(0).train
    there = Split(part.x.to(device), part.y.to(device))
    return Feed(task, there, torch.Generator(device).manual_seed(seed))


def _captured(
    model: nn.Module, feed: Feed, steps: int = 40, device: torch.device = CPU, unroll: int = 1
) -> Captured:
    rates = [1e-2 * rate(i, steps) for i in range(steps)]
    return Captured(model, feed, rates, weight_decay=0.1, device=device, unroll=unroll)


def _losses(engine: Captured, count: int) -> Tensor:
    return torch.cat([losses.clone() for losses in engine.run(count)])


def _plain(model: nn.Module, feed: Feed, steps: int, device: str = "cpu") -> Tensor:
    """The same training, written out."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups)
    losses = []
    for i in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * rate(i, steps)
        x, y = feed.next()
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            out, aux, stats = model.forward_aux(x)  # type: ignore[operator]
            loss = TASK.loss(out, y)
        torch.autograd.backward(loss + aux)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        model.update(stats)  # type: ignore[operator]
        losses.append(loss.detach())
    return torch.stack(losses)


def _model(trick: str = "pass") -> nn.Module:
    torch.manual_seed(0)
    return load(source(trick))()


def _text_model(text: str, task: Task = TASK) -> nn.Module:
    torch.manual_seed(0)
    return load(compile_text(text, task.interface).source)()


def _drawn(part: Split, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    rows = torch.randint(len(part), (size,), generator=generator, device=generator.device)
    return part.x[rows], part.y[rows]


NET = "conv2d(dim=8, kernel=3) >> batch_norm >> relu >> head"


@pytest.mark.parametrize("text", [NET, "conv2d(dim=8, kernel=3) >> relu >> head"])
@pytest.mark.parametrize("task", [TASK, replace(TASK, augment=shift), replace(TASK, batch=_drawn)])
def test_the_curve_is_that_of_plain_training_over_the_same_batches(task: Task, text: str) -> None:
    ours = _losses(_captured(_text_model(text), _feed(task), 100), 100)
    plain = _plain(_text_model(text), _feed(task), 100)
    torch.testing.assert_close(ours, plain, atol=2e-3, rtol=2e-3)
    assert ours[-10:].mean() < ours[:10].mean() - 0.05


def test_preparing_leaves_no_trace() -> None:
    model, feed = (
        _text_model(NET.replace("relu", "dropout(p=0.5)")),
        _feed(replace(TASK, augment=shift)),
    )
    before = {name: t.clone() for name, t in model.state_dict().items()}
    drawn, random = feed.generator.get_state(), torch.get_rng_state()
    engine = _captured(model, feed)
    assert torch.equal(feed.generator.get_state(), drawn)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert engine.optimiser is not None
    assert not any(t.any() for t in engine.optimiser.state()[1:4])
    assert not engine.place.any()


def test_only_what_is_read_through_a_cast_alone_gets_a_shadow() -> None:
    engine = _captured(_text_model(NET), _feed())
    assert engine.optimiser is not None
    names = {id(p): name for name, p in engine.model.named_parameters()}
    low = {names[id(s.param)] for s in engine.optimiser.slots if s.leaf is not s.param}
    assert low == {"conv2d.weight", "conv2d.bias", "head.weight", "head.bias"}


def test_a_parameter_read_both_ways_keeps_its_precision() -> None:
    model = load(source("y = y + self.head.weight.sum()"))()
    engine = _captured(model, _feed())
    assert engine.optimiser is not None
    both = model.get_parameter("head.weight")
    assert [s.leaf is s.param for s in engine.optimiser.slots if s.param is both] == [True]


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    model = _model()
    model.register_parameter("idle", nn.Parameter(torch.ones(3, 3)))
    _losses(_captured(model, _feed()), 5)
    assert torch.equal(model.get_parameter("idle"), torch.ones(3, 3))


def test_a_buffer_that_is_replaced_is_refused_and_the_model_is_as_before() -> None:
    text = source().replace("self.steps += stats[0]", "self.steps = self.steps + stats[0]")
    assert text != source()
    model = load(text)()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(NotCapturable, match="update replaces steps"):
        _captured(model, _feed())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_parameters_that_are_not_fp32_are_refused() -> None:
    model = _model("y = y * self.wide")
    model.register_parameter("wide", nn.Parameter(torch.ones((), dtype=torch.float64)))
    with pytest.raises(NotCapturable, match="parameters in float64"):
        _captured(model, _feed())


def test_a_step_that_fails_when_repeated_is_refused_with_its_line() -> None:
    trick = "self.n = getattr(self, 'n', 0) + 1; exec('raise RuntimeError(7)') if self.n > 1 else 0"
    with pytest.raises(NotCapturable, match=r"7 \(at `self.n = "):
        _captured(load(source(trick))(), _feed())


def test_a_model_that_cannot_run_is_a_fault_of_the_model() -> None:
    with pytest.raises(RuntimeError, match="no good"):
        _captured(load(source("raise RuntimeError('no good')"))(), _feed())


def test_released_parameters_have_memory_of_their_own() -> None:
    model = _model()
    engine = _captured(model, _feed())
    _losses(engine, 3)
    before = [p.clone() for p in model.parameters()]
    engine.release()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    sizes = [p.untyped_storage().nbytes() == p.numel() * 4 for p in model.parameters()]
    assert all(sizes)


def test_an_order_never_mixes_two_passes() -> None:
    order = Order(10, 3, torch.Generator().manual_seed(0))
    taken = [order.take(2) for _ in range(4)]
    assert [len(t) for t in taken] == [2, 1, 2, 1]
    for first, second in (taken[:2], taken[2:]):
        assert len(set(torch.cat([first, second]).flatten().tolist())) == 9


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_parameters_have_memory_of_their_own_however_training_ends(value: float) -> None:
    model = _model(f"y = y + {value!r}".replace("nan", "float('nan')"))
    made: list[Captured] = []

    def engine(*args: Any) -> Captured:
        made.append(_captured(args[0], args[1], len(args[2])))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.train.engine_of", engine)
        result = train(model, TASK, TASK.load(0), seed=0, epochs=2, lr=1e-3, weight_decay=0.0)
    assert (result.engine, result.status) == ("captured", "nan" if value else "ok")
    assert made[0].optimiser is None
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in model.parameters())


def test_training_on_the_cpu_says_that_it_was_eager() -> None:
    data = TASK.load(0)
    result = train(_model(), TASK, data, seed=0, epochs=1, lr=1e-3, weight_decay=0.0)
    assert result.engine == "eager: on the CPU"


def test_a_text_with_an_op_that_no_graph_holds_says_so() -> None:
    image = TASK.interface
    assert compile_text(NET, image).eager == ""
    language = Interface({"x": tokens(16, 8)}, target=seq(16, 8))
    barred = {**table(), "gelu": replace(table()["gelu"], capture=False)}
    space = parse("embed(dim=16) >> gelu >> head")
    assert compile_space(space, language, barred).eager == "gelu cannot be captured"


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("task", [TASK, replace(TASK, augment=shift), replace(TASK, batch=_drawn)])
def test_on_cuda_the_curve_of_replays_is_that_of_plain_training(task: Task, unroll: int) -> None:
    text = NET.replace("relu", "dropout(p=0.2)")
    device, steps = torch.device("cuda:0"), 2 * CHUNK + 5
    torch.manual_seed(1)
    model = _text_model(text).to(device)
    engine = _captured(model, _feed(task, "cuda"), steps, device, unroll)
    assert set(engine.graphs) == {1, unroll}
    ours = _losses(engine, steps)
    assert engine.optimiser is not None
    assert int(engine.optimiser.flat.count) == steps
    torch.manual_seed(1)
    plain = _plain(_text_model(text).to(device), _feed(task, "cuda"), steps, "cuda")
    torch.testing.assert_close(ours[:20], plain[:20], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(ours[-20:].mean(), plain[-20:].mean(), atol=5e-2, rtol=5e-2)


@pytest.mark.gpu
@gpu
def test_on_cuda_a_host_sync_is_refused_and_the_next_model_is_captured() -> None:
    device = torch.device("cuda:0")
    model = load(source("assert float(y.detach().sum()) < 1e9"))().to(device)
    with pytest.raises(NotCapturable, match=r"synchroniz.* \(at `assert float") as caught:
        _captured(model, _feed(device="cuda"), device=device)
    assert BROKEN not in str(caught.value)
    torch.nn.functional.dropout(torch.ones(8, device=device), 0.5)
    assert _captured(_model().to(device), _feed(device="cuda"), device=device).graphs


@pytest.mark.gpu
@gpu
def test_on_cuda_a_failed_capture_leaves_generators_and_device_usable() -> None:
    device = torch.device("cuda:0")
    generator = torch.Generator(device).manual_seed(3)
    expected = torch.rand(4, generator=torch.Generator(device).manual_seed(3), device=device)

    def step() -> None:
        torch.rand(4, device=device)
        torch.rand(4, generator=generator, device=device)
        torch.cuda.synchronize(device)

    with pytest.raises(NotCapturable, match=BROKEN):
        record(step, device, (generator,))
    assert torch.equal(torch.rand(4, generator=generator, device=device), expected)
    torch.nn.functional.dropout(torch.ones(8, device=device), 0.5)
    assert _captured(_model().to(device), _feed(device="cuda"), device=device).graphs


@pytest.mark.gpu
@gpu
def test_on_cuda_training_says_how_it_went() -> None:
    def engine(trick: str, eager: str = "") -> str:
        return train(
            _model(trick),
            TASK,
            TASK.load(0),
            seed=0,
            epochs=2,
            lr=1e-3,
            weight_decay=0.0,
            device="cuda:0",
            eager=eager,
        ).engine

    assert engine("pass") == "captured"
    sync = "assert self.training or float(y.sum()) < 1e9"
    assert "but measured eagerly: " in engine(sync)
    assert engine("pass", "because") == "eager: because"
    assert "synchroniz" in engine("float(y.detach().sum())")


@pytest.mark.gpu
@gpu
def test_on_cuda_a_replayed_measurement_is_that_of_the_model() -> None:
    device, data = torch.device("cuda:0"), TASK.load(0)
    split = Split(data.val.x.to(device), data.val.y.to(device))
    model = _text_model(NET).to(device).eval()
    found = Pass(lambda x: model(x), split.x[:32])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # a pass reads the parameters as they are
    expected = averages(model, TASK, split, 32)
    assert averages(model, TASK, split, 32, found) == pytest.approx(expected, rel=1e-5)
