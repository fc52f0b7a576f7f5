"""Every op's source can stand in an exported file: pure and uniquely named."""

import pytest
import torch
from torch import Tensor, nn

import ops
from ops.source import impurities, name_clashes
from ops.spec import Op, no_cost

WIDTH = 3


@pytest.mark.parametrize("op", ops.table().values(), ids=lambda op: op.name)
def test_source_has_all_it_needs_and_no_more(op: Op) -> None:
    assert impurities(op) == []


def test_names_are_unique_across_ops() -> None:
    assert name_clashes(ops.table().values()) == []


def helper(x: Tensor) -> Tensor:
    return x + 1


class Leans(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return helper(x) * WIDTH


class Imports(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        import math as mathematics

        print(x)
        return x * mathematics.pi


class Block3(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def _op(name: str, module: type[nn.Module], **words: tuple[object, ...]) -> Op:
    return Op(name=name, module=module, shape=lambda x: x, cost=no_cost, causal=True, **words)  # type: ignore[arg-type]  # uses


def test_what_an_export_would_lack_is_named() -> None:
    (missing,) = impurities(_op("leans", Leans))
    assert "WIDTH, helper" in missing
    (missing,) = impurities(_op("leans", Leans, uses=(helper,)))
    assert missing == "Leans of 'leans' takes WIDTH from its file"
    assert len(impurities(_op("imports", Imports))) == 2


def test_two_things_of_one_name_are_seen_and_one_thing_twice_is_not() -> None:
    other = type("Leans", (nn.Module,), {})
    first, second = _op("first", Leans, uses=(helper,)), _op("second", Imports, uses=(helper,))
    assert name_clashes([first, second]) == []
    assert "Leans of 'third'" in name_clashes([first, second, _op("third", other)])[0]
    assert "emitted file" in name_clashes([_op("block", Block3)])[0]
