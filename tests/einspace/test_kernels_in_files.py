"""Triton kernels in an emitted file: copied once under one guard, compiled once a process."""

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ops
from einspace import load as loading
from einspace.compile import Compiled, compile_space, compile_text
from einspace.interface import Interface
from einspace.load import load
from grammar.parse import parse
from ops.source import source_of
from ops.spec import Op, no_cost, seq

triton = pytest.importorskip("triton", reason="triton has no wheel for this platform")
tl = pytest.importorskip("triton.language")

TYPE = Interface({"x": seq(7, 5)}, seq(7, 5))
TEXT = "doubled >> residual(doubled)"  # 2 x + 2 (2 x)

if triton is not None:  # indented, as in the engines

    @triton.jit
    def doubled_kernel(x, y, count, block: tl.constexpr):
        at = tl.program_id(0) * block + tl.arange(0, block)

        tl.store(y + at, 2 * tl.load(x + at, mask=at < count), mask=at < count)


class Doubled(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if triton is None:
            return x + x
        y = torch.full_like(x, float("nan"))
        doubled_kernel[(triton.cdiv(x.numel(), 16),)](x, y, x.numel(), block=16)
        return y


OP = Op(
    name="doubled",
    module=Doubled,
    shape=lambda x: x,
    cost=no_cost,
    causal=True,
    uses=(doubled_kernel,),
)


def written(op: Op) -> Compiled:
    return compile_space(parse(TEXT, "<text>"), TYPE, dict(ops.table()) | {"doubled": op})


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(loading, "table", lambda: {"doubled": OP})
    loading.kernels.cache_clear()
    yield written(OP).source
    loading.kernels.cache_clear()


def test_the_kernel_stands_once_word_for_word_under_the_guard(source: str) -> None:
    assert source.count("def doubled_kernel") == 1
    assert source.count("import triton.language as tl") == 1
    guard = source.index(f"if {loading.GUARD}:")
    assert source.index("class Model") < source.index("class Doubled") < guard
    assert guard < source.index("def doubled_kernel")
    kernel = source_of(doubled_kernel)
    assert "".join(f"    {x}".rstrip() + "\n" for x in kernel.splitlines()) in source


def test_a_loaded_file_has_the_kernel_of_the_process(source: str) -> None:
    model = load(source)()
    assert model.forward.__globals__["doubled_kernel"] is doubled_kernel
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(model(x), 6 * x)


def test_a_kernel_with_another_text_is_that_of_the_file(source: str) -> None:
    model = load(source.replace("2 * tl.load", "4 * tl.load"))()
    assert model.forward.__globals__["doubled_kernel"] is not doubled_kernel
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(model(x), 20 * x)


def test_of_a_second_architecture_python_compiles_its_own_classes_alone() -> None:
    first = compile_text("gru >> residual(rms_norm >> gru) >> gru", TYPE).source
    second = compile_text("gru >> rms_norm >> residual(rms_norm >> gru)", TYPE).source
    load(first)
    before = loading._code.cache_info().misses
    model = load(second)()
    assert loading._code.cache_info().misses - before <= 2  # Model, and the header before it
    assert model(torch.randn(1, 7, 5)).shape == (1, 7, 5)


def test_a_traceback_shows_the_line_of_the_file() -> None:
    text = compile_text("rms_norm >> relu", TYPE).source.replace("# seq[7,5]", "@ x", 1)
    with pytest.raises(RuntimeError) as caught:
        load(text)()(torch.randn(1, 7, 5))
    assert "@ x" in "".join(traceback.format_exception(caught.value))


def test_a_file_written_without_triton_says_so_and_takes_the_reference() -> None:
    source = written(replace(OP, uses=())).source
    assert "triton = None  # written where triton was not installed" in source
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(load(source)()(x), 6 * x)


def test_a_plain_interpreter_imports_the_file_and_runs_its_kernel(
    source: str, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_text(source)
    program = "import torch; from model import Model; print(Model()(torch.ones(1, 7, 5)).tolist())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(torch.full((1, 7, 5), 6.0).tolist())
