"""The contract of `ops/spec.py` as checks: types, costs, gradients, causality, mask, state, source.

The test suite runs them for every shipped op, `einspace ops test` for a user's. A check takes a
`Bench`, raises an `AssertionError` (mostly `Breach`) where the op breaks the clause, and returns at
once where the clause does not concern it.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ops.case import BATCH, LONG, Bench, close, matches, require, sample, tensors
from ops.graphable import capturable, device_of_the_inputs
from ops.source import impurities, is_kernel, source_of
from ops.spec import TensorType


def is_sequence(kind: TensorType) -> bool:
    """Whether values of this type have a token axis."""
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


def types(bench: Bench) -> None:
    """`forward` returns `Op.returns`, and the values have the types of `shape`."""
    returned = bench.call(bench.build(), bench.data())
    values = bench.values(returned)
    require(list(returned) == list(bench.op.returns), f"returns {list(returned)}")
    require(len(values) == len(bench.outputs), f"{len(values)} values, {len(bench.outputs)} types")
    for kind, value in zip(bench.outputs, values, strict=True):
        got = [(tuple(t.shape), t.dtype) for t in tensors(value)]
        require(matches(kind, value), f"`shape` says {kind}, `forward` gives {got}")
    if "aux" in returned:
        require(returned["aux"].dim() == 0, "`aux` is no scalar")
    if "stats" in returned:
        plain = all(isinstance(t, Tensor) and not t.requires_grad for t in returned["stats"])
        require(plain, "`stats` are tensors without a gradient")


def parameters(bench: Bench) -> None:
    """`Cost.params` is the number of parameters of the module."""
    count = sum(p.numel() for p in bench.build().parameters())
    require(count == bench.cost.params, f"it has {count}, `cost` says {bench.cost.params}")


def flops(bench: Bench) -> None:
    """`Cost.flops` is what torch's counter counts for one sample."""
    if bench.case.flops == "analytic":
        require(bench.cost.flops > 0, "`cost` says 0")
        return
    module, data = bench.build(), bench.data()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        bench.call(module, data)
    counted = counter.get_total_flops()
    claimed = BATCH * bench.cost.flops
    require(counted == claimed, f"{counted} counted for {BATCH} samples, `cost` says {claimed}")


def gradients(bench: Bench) -> None:
    """Every parameter and every floating input gets a finite gradient."""
    module, data = bench.build(), bench.data()
    floats = [t.requires_grad_() for v in data for t in tensors(v) if t.is_floating_point()]
    returned = bench.call(module, data)
    outputs = [t for v in bench.values(returned) for t in tensors(v) if t.requires_grad]
    outputs += [returned["aux"]] if "aux" in returned else []
    if not floats and not list(module.parameters()):
        return
    require(bool(outputs), "nothing that it returns has a gradient")
    torch.manual_seed(3)
    torch.autograd.backward(torch.stack([(t * torch.randn_like(t)).sum() for t in outputs]).sum())
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            require(False, f"no gradient for {name}")
        else:
            require(bool(parameter.grad.isfinite().all()), f"{name}'s is not finite")
    for tensor in floats:
        gradient = tensor.grad
        if gradient is None:
            require(False, "an input gets none")
        else:
            require(bool(gradient.isfinite().all()), "an input's is not finite")
            require(bool(gradient.any()), "an input's is zero everywhere")


def determinism(bench: Bench) -> None:
    """In `eval()` the same input gives the same output, bit for bit."""
    module, data = bench.build().eval(), bench.data()
    with torch.no_grad():
        first, second = (bench.values(bench.call(module, data)) for _ in range(2))
    for a, b in zip(tensors(first), tensors(second), strict=True):
        require(torch.equal(a, b), "two calls differ")


def causality(bench: Bench) -> None:
    """Where the op says causal, later tokens do not change earlier outputs; else it says so."""
    aligned = sequences(bench)
    if not aligned:
        return
    if not bench.causal:
        text = inspect.getdoc(inspect.getmodule(bench.op.module)) or ""
        said = "causal" in text.lower() or bench.op.mask == "pass"
        require(said, "say in the docstring that it is not causal")
        return
    data = bench.data(dtype=torch.float64)
    length = bench.case.types[0].length
    keep = torch.arange(length).expand(BATCH, length) < length // 2
    for mode in (True, False):
        module = bench.build(dtype=torch.float64).train(mode)
        with torch.no_grad():
            torch.manual_seed(5)
            before: list[Any] = bench.values(bench.call(module, data))
            fresh = changed(bench, data, keep)
            torch.manual_seed(5)  # an op that draws noise must draw the same again
            after: list[Any] = bench.values(bench.call(module, fresh))
        for i in aligned:
            close(after[i][:, : length // 2], before[i][:, : length // 2])


def mask(bench: Bench) -> None:
    """An op that takes a mask computes the same whatever stands at the padded places."""
    takes = "mask" in inspect.signature(bench.op.module.forward).parameters
    wants = bench.op.mask in ("use", "end")
    require(takes == wants, f"`mask` of `forward`: {takes}, of Op.mask={bench.op.mask!r}: {wants}")
    if not takes or not is_sequence(bench.case.types[0]):
        return
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    length = bench.case.types[0].length
    lengths = torch.tensor([length, max(1, length - length // 3)])
    real = torch.arange(length) < lengths[:, None]
    real[1, length // 3] &= length < 4  # a hole: padding need not be on the right
    aligned = sequences(bench) if bench.op.mask == "use" else []
    with torch.no_grad():
        before = bench.values(bench.call(module, data, real))
        after = bench.values(bench.call(module, changed(bench, data, real), real))
        for i, (a, b) in enumerate(zip(after, before, strict=True)):
            close(*((a[real], b[real]) if i in aligned else (a, b)))
        whole = bench.values(bench.call(module, data, torch.ones_like(real)))
        close(tuple(whole), tuple(bench.values(bench.call(module, data))))


def padding_stays_in_the_type(bench: Bench) -> None:
    """A sequence that may be padded stays one."""
    if bench.op.mask not in ("use", "pass") or not sequences(bench):
        return
    kept = all(bench.outputs[i].may_pad == bench.case.types[0].may_pad for i in sequences(bench))
    require(kept, "`shape` loses `may_pad`")


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
        same = [(t.shape, t.dtype) for t in tensors(state)] == shapes
        require(same, "a state's shape is fixed")
        outputs.append(y)
    return torch.cat(outputs, 1), state


def steps(bench: Bench) -> None:
    """`step`, token by token, gives what `forward` gives."""
    if not bench.op.state or not bench.causal:
        return
    for dtype in (torch.float64, torch.float32):
        module, data = bench.build(dtype=dtype).eval(), bench.data(dtype=dtype)
        with torch.no_grad():
            whole = bench.values(bench.call(module, data))[0]
            y, _ = stepped(bench, module, data)
        close(y, whole)


def exports(bench: Bench) -> None:
    """`alone` gives the y of `forward`, and `step_all` all of it."""
    if not bench.op.signature.exports:
        return
    built = bench.build(dtype=torch.float64).eval()
    module: Any = built
    data = bench.data(dtype=torch.float64)
    count = len(bench.case.types)
    further = zip(bench.op.inputs, data[count:], strict=True)
    named = {i.name: v for i, v in further if v is not None}
    with torch.no_grad():
        whole = bench.values(bench.call(built, data))
        close(module.alone(*data[:count], **named), whole[0])
        if not (bench.op.state and bench.causal):
            return
        given: list[Any] = [v for v in data if v is not None]
        state, found = module.init_state(BATCH, given[0].shape[1]), []
        for t in range(given[0].shape[1]):
            now, *streams = (v[:, t : t + 1] for v in given)
            *values, state = module.step_all(now, state, *streams)
            found.append(values)
    close(tuple(torch.cat(p, 1) for p in zip(*found, strict=True)), tuple(whole))


def state_bytes(bench: Bench) -> None:
    """`Cost.state` is the bytes of one sequence's state; 0 where there is none."""
    if not bench.op.state or not bench.causal:
        require(bench.cost.state == 0, f"no state, but `cost` says {bench.cost.state} bytes")
        return
    static = [
        sample(t, lead=(1,)) if t else None
        for i, t in zip(bench.op.inputs, bench.inputs, strict=True)
        if i.role == "static"
    ]
    module: Any = bench.build()
    with torch.no_grad():
        given = [v for v in static if v is not None]
        state = module.init_state(1, bench.case.types[0].length, *given)
    held = sum(t.numel() * t.element_size() for t in tensors(state))
    require(held == bench.cost.state, f"{held} bytes, `cost` says {bench.cost.state}")


def a_causal_op_without_state_is_position_wise(bench: Bench) -> None:
    """Causal and without state: a token alone gives what it gives among others."""
    if bench.op.state or not bench.causal or bench.op.fixed_length or not sequences(bench):
        return
    if any(i.role == "static" for i in bench.op.inputs):
        return
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    with torch.no_grad():
        whole: list[Any] = bench.values(bench.call(module, data))
        one = [v[:, -1:] if isinstance(v, Tensor) else v for v in data]
        last: list[Any] = bench.values(bench.call(module, one))
    for i in sequences(bench):
        close(last[i], whole[i][:, -1:])


def reload(bench: Bench) -> None:
    """Weights loaded into another module of the same arguments give the same outputs."""
    module, other, data = bench.build(), bench.build(seed=9), bench.data()
    other.load_state_dict(module.state_dict(), strict=True)
    with torch.no_grad():
        expected = bench.values(bench.call(module.eval(), data))
        actual = bench.values(bench.call(other.eval(), data))
    for a, e in zip(tensors(actual), tensors(expected), strict=True):
        require(torch.equal(a, e), "the outputs differ")


def pure_source(bench: Bench) -> None:
    """The source can stand in an exported file: its names are given there or listed in `uses`."""
    found = impurities(bench.op)
    require(not found, "; ".join(found))


def declared_inputs(bench: Bench) -> None:
    """`forward` takes x, then the declared inputs and their masks, then `mask` where used."""
    op = bench.op
    if op.variadic:
        return
    names = list(inspect.signature(op.module.forward).parameters)[2:]
    declared = [
        n for i in op.inputs for n in ([i.name, f"{i.name}_mask"] if i.masked else [i.name])
    ]
    declared += ["mask"] if op.mask in ("use", "end") else []
    require(names == declared, f"it takes {names}, declared are {declared}")


def copied_source(bench: Bench) -> None:
    """The copied source alone, as an export has it, computes the same."""
    scope: dict[str, Any] = {"torch": torch, "math": math, "nn": nn, "F": F, "Tensor": torch.Tensor}
    scope |= {"triton": None} | {p.__name__: p for p in bench.op.uses if is_kernel(p)}
    for part in (*bench.op.uses, bench.op.module):
        if not is_kernel(part):
            exec(source_of(part), scope)
    torch.manual_seed(0)
    copy = scope[bench.op.module.__name__](**bench.op.init(*bench.case.types, **bench.params))
    data = bench.data()
    with torch.no_grad():
        expected = bench.values(bench.call(bench.build().eval(), data))
        actual = bench.values(bench.call(copy.eval(), data))
    close(tuple(actual), tuple(expected))


def inline_form(bench: Bench) -> None:
    """The expression of `inline` equals the module."""
    if bench.op.inline is None:
        return
    data = bench.data(dtype=torch.float64)
    names = [f"x{i}" for i in range(len(data))]
    expression = bench.op.inline(names, bench.params)
    scope = {"torch": torch, "nn": nn, "F": F, "math": math} | dict(zip(names, data, strict=True))
    expected = bench.values(bench.call(bench.build(dtype=torch.float64), data))[0]
    close(eval(f"({expression})", scope), expected)


CHECKS: Mapping[str, Callable[[Bench], None]] = {
    check.__name__: check
    for check in (
        types,
        parameters,
        flops,
        gradients,
        determinism,
        causality,
        mask,
        padding_stays_in_the_type,
        steps,
        exports,
        state_bytes,
        a_causal_op_without_state_is_position_wise,
        reload,
        inline_form,
        capturable,
        device_of_the_inputs,
    )
}
# Of an op, whichever case: run with its first one.
ONCE: Mapping[str, Callable[[Bench], None]] = {
    check.__name__: check for check in (pure_source, declared_inputs, copied_source)
}


def clauses(benches: Iterable[Bench]) -> Iterator[tuple[str, Bench]]:
    """Every check with every case it is run with; `run` runs one.

    The first causal case of an op decodes `LONG` tokens instead of its own.
    """
    seen: set[str] = set()
    decoded: set[str] = set()
    for bench in benches:
        name = bench.op.name
        if name not in seen:
            seen.add(name)
            yield from ((check, bench) for check in ONCE)
        for check in CHECKS:
            longer = check == "steps" and bench.op.state and bench.causal and name not in decoded
            if longer:
                decoded.add(name)
            yield check, bench.lengthened(LONG) if longer else bench


def run(check: str, bench: Bench) -> str:
    """Run a check; gives why it was waived, "" if it was not. Raises: AssertionError."""
    reason = bench.case.waive.get(check, "")
    if not reason:
        (CHECKS.get(check) or ONCE[check])(bench)
    return reason
