"""Every op keeps the contract of `ops/spec.py`: types, costs, gradients, causality, mask, state."""

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ops
from ops.spec import TensorType
from tests.ops.case import BATCH, LONG, Bench, close, collect, matches, sample, tensors

every = pytest.mark.parametrize("bench", collect(), ids=str)


@pytest.fixture(autouse=True)
def _waived(request: pytest.FixtureRequest) -> None:
    bench = request.node.callspec.params.get("bench") if hasattr(request.node, "callspec") else None
    check = request.node.name.partition("[")[0].removeprefix("test_")
    if bench is not None and check in bench.case.waive:
        pytest.skip(bench.case.waive[check])


def is_sequence(kind: TensorType) -> bool:
    return kind.kind in ("tokens", "seq")


def sequences(bench: Bench) -> list[int]:
    """Which outputs are aligned with the input, token by token."""
    first = bench.case.types[0]
    if not is_sequence(first):
        return []
    outputs = enumerate(bench.outputs)
    return [i for i, t in outputs if is_sequence(t) and t.length == first.length]


def changed(bench: Bench, data: Sequence[Any], keep: Tensor) -> list[Any]:
    """New content where `keep` [B, T] is False, in x and in the inputs aligned with it."""
    count = len(bench.case.types)
    kinds = [*bench.case.types, *bench.inputs]
    roles = ["stream"] * count + [i.role for i in bench.op.inputs]
    out = []
    torch.manual_seed(7)
    for kind, role, value in zip(kinds, roles, data, strict=True):
        if kind is None or role == "static" or not is_sequence(kind):
            out.append(value)
            continue
        fresh = sample(kind, value.dtype if value.is_floating_point() else torch.float32)
        out.append(torch.where(keep.view(*keep.shape, *[1] * (value.dim() - 2)), value, fresh))
    return out


def test_every_op_has_a_case() -> None:
    missing = set(ops.table()) - {bench.op.name for bench in collect()}
    assert not missing, f"no CASES for {sorted(missing)}"


@every
def test_types(bench: Bench) -> None:
    returned = bench.call(bench.build(), bench.data())
    values = bench.values(returned)
    assert list(returned) == list(bench.op.returns)
    assert len(values) == len(bench.outputs)
    for kind, value in zip(bench.outputs, values, strict=True):
        assert matches(kind, value), f"{kind} but {[t.shape for t in tensors(value)]}"
    if "aux" in returned:
        assert returned["aux"].dim() == 0
    if "stats" in returned:
        assert all(isinstance(t, Tensor) and not t.requires_grad for t in returned["stats"])


@every
def test_parameters(bench: Bench) -> None:
    assert sum(p.numel() for p in bench.build().parameters()) == bench.cost.params


@every
def test_flops(bench: Bench) -> None:
    if bench.case.flops == "analytic":
        assert bench.cost.flops > 0
        return
    module, data = bench.build(), bench.data()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        bench.call(module, data)
    assert counter.get_total_flops() == BATCH * bench.cost.flops


@every
def test_gradients(bench: Bench) -> None:
    module, data = bench.build(), bench.data()
    floats = [t.requires_grad_() for v in data for t in tensors(v) if t.is_floating_point()]
    returned = bench.call(module, data)
    outputs = [t for v in bench.values(returned) for t in tensors(v) if t.requires_grad]
    outputs += [returned["aux"]] if "aux" in returned else []
    if not floats and not list(module.parameters()):
        return
    torch.manual_seed(3)
    torch.stack([(t * torch.randn_like(t)).sum() for t in outputs]).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert parameter.grad.isfinite().all(), name
    for tensor in floats:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@every
def test_determinism(bench: Bench) -> None:
    module, data = bench.build().eval(), bench.data()
    with torch.no_grad():
        first, second = (bench.values(bench.call(module, data)) for _ in range(2))
    for a, b in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(a, b)


@every
def test_causality(bench: Bench) -> None:
    aligned = sequences(bench)
    if not aligned:
        return
    if not bench.causal:
        text = inspect.getdoc(inspect.getmodule(bench.op.module)) or ""
        assert "causal" in text.lower() or bench.op.mask == "pass", "say in words: not causal"
        return
    data = bench.data(dtype=torch.float64)
    length = bench.case.types[0].length
    keep = torch.arange(length).expand(BATCH, length) < length // 2
    for mode in (True, False):
        module = bench.build(dtype=torch.float64).train(mode)
        with torch.no_grad():
            torch.manual_seed(5)
            before = bench.values(bench.call(module, data))
            fresh = changed(bench, data, keep)
            torch.manual_seed(5)  # an op that draws noise must draw the same again
            after = bench.values(bench.call(module, fresh))
        for i in aligned:
            close(after[i][:, : length // 2], before[i][:, : length // 2])


@every
def test_mask(bench: Bench) -> None:
    takes = "mask" in inspect.signature(bench.op.module.forward).parameters
    assert takes == (bench.op.mask in ("use", "end"))
    if not takes or not is_sequence(bench.case.types[0]):
        return
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    length = bench.case.types[0].length
    lengths = torch.tensor([length, max(1, length - length // 3)])
    mask = torch.arange(length) < lengths[:, None]
    mask[1, length // 3] &= length < 4  # a hole: padding need not be on the right
    aligned = sequences(bench) if bench.op.mask == "use" else []
    with torch.no_grad():
        before = bench.values(bench.call(module, data, mask))
        after = bench.values(bench.call(module, changed(bench, data, mask), mask))
        for i, (a, b) in enumerate(zip(after, before, strict=True)):
            close(*((a[mask], b[mask]) if i in aligned else (a, b)))
        whole = bench.values(bench.call(module, data, torch.ones_like(mask)))
        close(tuple(whole), tuple(bench.values(bench.call(module, data))))


@every
def test_padding_stays_in_the_type(bench: Bench) -> None:
    if bench.op.mask not in ("use", "pass") or not sequences(bench):
        return
    assert all(bench.outputs[i].may_pad == bench.case.types[0].may_pad for i in sequences(bench))


def stepped(bench: Bench, module: Any, data: Sequence[Any]) -> tuple[Tensor, Any]:
    """The outputs of one token at a time, and the last state."""
    roles = [i.role for i in bench.op.inputs]
    further = list(zip(roles, data[1:], strict=True))
    static = [v for role, v in further if role == "static" and v is not None]
    stream = [v for role, v in further if role == "stream" and v is not None]
    state = module.init_state(BATCH, data[0].shape[1], *static)
    shapes = [(t.shape, t.dtype) for t in tensors(state)]
    outputs = []
    for t in range(data[0].shape[1]):
        now = slice(t, t + 1)
        y, state = module.step(data[0][:, now], state, *[v[:, now] for v in stream])
        assert [(t.shape, t.dtype) for t in tensors(state)] == shapes, "a state's shape is fixed"
        outputs.append(y)
    return torch.cat(outputs, 1), state


@every
def test_steps(bench: Bench) -> None:
    if not bench.op.state or not bench.causal:
        return
    first = next(b for b in collect() if b.op is bench.op and b.causal) is bench
    if first and not bench.op.fixed_length:
        bench = bench.lengthened(LONG)
    for dtype in (torch.float64, torch.float32):
        module, data = bench.build(dtype=dtype).eval(), bench.data(dtype=dtype)
        with torch.no_grad():
            whole = bench.values(bench.call(module, data))[0]
            y, _ = stepped(bench, module, data)
        close(y, whole)


@every
def test_exports(bench: Bench) -> None:
    if not bench.op.signature.exports:
        return
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    count = len(bench.case.types)
    further = zip(bench.op.inputs, data[count:], strict=True)
    named = {i.name: v for i, v in further if v is not None}
    with torch.no_grad():
        whole = bench.values(bench.call(module, data))
        close(module.alone(*data[:count], **named), whole[0])
        if not (bench.op.state and bench.causal):
            return
        state, parts = module.init_state(BATCH, data[0].shape[1]), []
        for t in range(data[0].shape[1]):
            *found, state = module.step_all(data[0][:, t : t + 1], state)
            parts.append(found)
    close(tuple(torch.cat(p, 1) for p in zip(*parts, strict=True)), tuple(whole))


@every
def test_state_bytes(bench: Bench) -> None:
    if not bench.op.state or not bench.causal:
        assert bench.cost.state == 0
        return
    static = [
        sample(t, lead=(1,)) if t else None
        for i, t in zip(bench.op.inputs, bench.inputs, strict=True)
        if i.role == "static"
    ]
    with torch.no_grad():
        given = [v for v in static if v is not None]
        state = bench.build().init_state(1, bench.case.types[0].length, *given)
    assert sum(t.numel() * t.element_size() for t in tensors(state)) == bench.cost.state


@every
def test_a_causal_op_without_state_is_position_wise(bench: Bench) -> None:
    if bench.op.state or not bench.causal or bench.op.fixed_length or not sequences(bench):
        return
    if any(i.role == "static" for i in bench.op.inputs):
        return
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    with torch.no_grad():
        whole = bench.values(bench.call(module, data))
        one = [v[:, -1:] if isinstance(v, Tensor) else v for v in data]
        last = bench.values(bench.call(module, one))
    for i in sequences(bench):
        close(last[i], whole[i][:, -1:])


@every
def test_reload(bench: Bench) -> None:
    module, other, data = bench.build(), bench.build(seed=9), bench.data()
    other.load_state_dict(module.state_dict(), strict=True)
    with torch.no_grad():
        expected = bench.values(bench.call(module.eval(), data))
        actual = bench.values(bench.call(other.eval(), data))
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        assert torch.equal(a, e)
