"""The seeds that the op library is measured by: they check, train a step and export."""

from pathlib import Path

import pytest
import torch

import ops
from einspace.compile import Compiled, compile_text
from einspace.library import shipped
from einspace.load import load
from ops.case import sample
from registry.export import export
from search.tasks import find

NAMES = (
    *("transnormer_lm", "retnet_lm", "mamba2_lm", "gated_delta_lm", "titans_lm", "rwkv7_lm"),
    *("llama_like", "t5_like", "perceiver_like"),
)
SEEDS = shipped("seeds")
by_name = pytest.mark.parametrize("name", NAMES)


def _compiled(name: str) -> Compiled:
    task = SEEDS[name].task
    assert task is not None
    return compile_text(SEEDS[name].text, find(task).interface, name)


@by_name
def test_a_seed_checks_and_trains_a_step(name: str) -> None:
    compiled = _compiled(name)
    assert compiled.causal == name.endswith("_lm") or name in ("llama_like", "t5_like")
    torch.manual_seed(0)
    model = load(compiled.source)()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    (kind,) = compiled.interface.inputs.values()
    torch.manual_seed(1)
    y, aux, stats = model.forward_aux(sample(kind))  # type: ignore[operator]  # every model's method
    (y.square().mean() + aux).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    optimiser.step()
    model.update(stats)  # type: ignore[operator]  # as above
    assert model(sample(kind)).isfinite().all()


@pytest.mark.slow
@by_name
def test_a_seed_exports(name: str, tmp_path: Path) -> None:
    export(_compiled(name), None, tmp_path / name, facts={"weights": "untrained, seed 0"})
    assert (tmp_path / name / "model.py").is_file()


def test_no_seed_or_space_bears_an_ops_name() -> None:
    assert not {*SEEDS, *shipped("spaces")} & set(ops.table())
