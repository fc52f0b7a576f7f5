"""Every shipped op keeps the contract of `ops/spec.py`; the clauses are in `ops/contract.py`."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ops
from grammar.domain import Int
from ops import contract
from ops.case import Bench, Case
from ops.spec import Cost, Op, seq
from tests.ops.case import collect

CLAUSES = list(contract.clauses(collect()))


def test_every_op_has_a_case() -> None:
    missing = set(ops.table()) - {bench.op.name for bench in collect()}
    assert not missing, f"no CASES for {sorted(missing)}"


@pytest.mark.parametrize(("check", "bench"), CLAUSES, ids=[f"{c}-{b}" for c, b in CLAUSES])
def test_contract(check: str, bench: Bench) -> None:
    waived = contract.run(check, bench)
    if waived:
        pytest.skip(waived)


def test_a_waived_clause_exists() -> None:
    known = set(contract.CHECKS) | set(contract.ONCE)
    for bench in collect():
        assert set(bench.case.waive) <= known, bench.op.name


class Probe(nn.Module):
    """Scales each token; causal, without state."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Ahead(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) * self.weight + x


class Noisy(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + torch.randn_like(x)


class Narrow(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight)[..., :1]


class Cut(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach() * self.weight


class Matmul(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.diag(self.weight)


class Reads(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * float(x.detach().sum())


class Brings(Probe):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + torch.ones(6)


class Counter(Probe):
    def init_state(self, batch: int, length: int) -> Tensor:
        return self.weight.new_zeros(batch)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x) + state[:, None, None], state + 1


def _op(module: type[nn.Module] = Probe, **words: Any) -> Op:
    cost = Cost(words.pop("params_of", 6), state=words.pop("bytes", 0))
    return Op(
        name="probe",
        module=module,
        shape=words.pop("shape", lambda x: x),
        cost=lambda x: cost,
        causal=words.pop("causal", True),
        **words,
    )


BROKEN = {
    "types": _op(Narrow),
    "parameters": _op(params_of=7),
    "flops": _op(Matmul),
    "gradients": _op(Cut),
    "determinism": _op(Noisy),
    "causality": _op(Ahead),
    "mask": _op(mask="use"),
    "padding_stays_in_the_type": _op(shape=lambda x: replace(x, may_pad=False)),
    "steps": _op(Counter, state=True, bytes=4),
    "state_bytes": _op(Counter, state=True),
    "a_causal_op_without_state_is_position_wise": _op(Ahead),
    "inline_form": _op(inline=lambda xs, params: f"2 * {xs[0]}"),
    "pure_source": _op(Narrow, uses=()),
    "capturable": _op(Reads),
    "device_of_the_inputs": _op(Brings),
    "declared_inputs": _op(mask="use"),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_breach_is_seen(check: str) -> None:
    kind = seq(7, 6, may_pad=check == "padding_stays_in_the_type")
    with pytest.raises(AssertionError):
        contract.run(check, Bench(BROKEN[check], Case(kind)))


def test_an_op_that_keeps_the_contract_passes_every_clause() -> None:
    found = list(contract.clauses([Bench(_op(), Case(seq(7, 6)))]))
    assert {check for check, _ in found} == {*contract.CHECKS, *contract.ONCE}
    for check, bench in found:
        assert contract.run(check, bench) == ""


def test_a_parameter_that_must_be_given_is_asked_for() -> None:
    op = _op(params={"heads": Int(1, 4)})
    with pytest.raises(AssertionError, match="probe needs heads"):
        contract.run("types", Bench(op, Case(seq(7, 6))))
