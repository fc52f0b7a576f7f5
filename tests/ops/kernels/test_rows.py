"""Row kernels: norms, gates and losses equal their specification, and are what runs on a GPU."""

import pytest
import torch
from torch import Tensor

from ops.kernels import rows
from ops.kernels.rows import (
    affine,
    gated,
    head_loss,
    looked_up,
    norm_dtype,
    normed,
    row_loss,
    sum_normed,
)
from ops.kernels.rows_gate_kernel import GateRows
from ops.kernels.rows_loss_kernel import HeadLoss, LossRows
from ops.kernels.rows_norm_kernel import NormRows, norm_backward
from ops.kernels.rows_table_kernel import (
    LinearRows,
    TableRows,
    bias_gradient,
    table_config,
    table_gradient,
)
from tests.ops.kernels.equal import DEVICE, check, made_by, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")
BF16 = torch.bfloat16
EPS = 1e-5


def norm_kernel(center: bool, dtype: torch.dtype) -> object:
    def run(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        y: Tensor = NormRows.apply(x, None, weight, bias, EPS, center, dtype, False)
        return y

    return run


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("shape", [(3, 7, 24), (2, 100), (1, 5)], ids=str)
@pytest.mark.parametrize("center", [False, True])
def test_a_norm_equals_its_specification(
    center: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, weight, bias = random(*shape, dtype=dtype), random(shape[-1]), random(shape[-1], seed=1)
    given = (x, weight, bias) if center else (x, weight)
    check(
        norm_kernel(center, dtype),
        lambda x, w, b=None: normed(x, w, b, EPS, center=center),
        given,
    )


def test_a_norm_without_gains_equals_its_specification() -> None:
    check(norm_kernel(False, torch.float32), lambda x: normed(x, None, None, EPS), [random(5, 33)])


@pytest.mark.parametrize("center", [False, True])
def test_a_sum_and_its_norm_equal_their_specification_in_mixed_types(center: bool) -> None:
    """The stream in fp32, what is added and what is written in bf16."""

    def kernel(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        s, y = NormRows.apply(x, r, weight, bias, EPS, center, BF16, True)
        assert (s.dtype, y.dtype) == (torch.float32, BF16)
        return s, y

    inputs = random(3, 7, 40), random(3, 7, 40, dtype=BF16, seed=1), random(40), random(40, seed=2)
    check(kernel, lambda x, r, w, b: sum_normed(x, r, w, b, EPS, center=center), inputs)


def test_a_norm_that_hands_its_input_on_adds_up_both_gradients() -> None:
    def kernel(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        s, y = NormRows.apply(x, None, weight, None, EPS, False, torch.float32, True)
        return s, y

    check(kernel, lambda x, w: sum_normed(x, None, w, None, EPS), [random(5, 24), random(24)])


def test_the_norm_of_a_sum_may_be_read_alone_or_not_at_all() -> None:
    x, r, weight = random(4, 24), random(4, 24, seed=1), random(24)
    s, y = NormRows.apply(x, r, weight, None, EPS, False, torch.float32, True)
    alone = torch.autograd.grad(y.sum(), (x, r, weight), retain_graph=True)
    exact = torch.autograd.grad(sum_normed(x, r, weight, None, EPS)[1].sum(), (x, r, weight))
    torch.testing.assert_close(alone, exact)
    through = torch.autograd.grad(s.square().sum(), (x, r))
    torch.testing.assert_close(through, (2 * s, 2 * s))


def test_programs_that_take_many_tiles_give_the_same_gains() -> None:
    """Six tiles of two rows over one, two and all programs; the last tile is ragged."""
    s, dy, weight, bias = (random(*n).detach() for n in [(11, 24), (11, 24), (24,), (24,)])
    for most in (1, 2, 6):
        config = (2, 4, 2, 4, most)
        kinds = torch.float32, None
        found = norm_backward(s, weight, bias, dy, None, EPS, True, kinds, config)
        x, w, b = (t.double().requires_grad_() for t in (s, weight, bias))
        y = normed(x, w, b, EPS, center=True)
        exact = torch.autograd.grad(y, (x, w, b), dy.double())
        for a, e in zip((found[0], *found[2:]), exact, strict=True):
            torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("act", ["silu", "gelu", "none"])
def test_a_gate_equals_its_specification(act: str, dtype: torch.dtype) -> None:
    for shape in [(3, 7, 48), (5, 2 * 21)]:
        check(
            lambda z: GateRows.apply(z, act), lambda z: gated(z, act), [random(*shape, dtype=dtype)]
        )


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("classes", [10, 84, 2100])
def test_a_loss_equals_its_specification(classes: int, dtype: torch.dtype) -> None:
    """2100 classes pass through the block of 2048 twice."""
    count = 70 if classes < 100 else 3
    label = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    label[1] = -100
    z = random(count, classes, dtype=dtype)
    check(lambda z: LossRows.apply(z, label, -100), lambda z: row_loss(z, label), [z])


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_of_a_head_equals_the_loss_of_its_logits(bias: bool, dtype: torch.dtype) -> None:
    """Three chunks, the last ragged, one of them without a label."""
    label = torch.randint(40, (19,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    label[8:16] = -100
    given = [random(19, 12, dtype=dtype), random(40, 12, seed=1), random(40, seed=2)][: 2 + bias]

    def kernel(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        loss: Tensor = HeadLoss.apply(x, w, b, label, -100, 8, dtype, True)
        return loss

    check(
        kernel,
        lambda x, w, b=None: head_loss(x, w, b, label),
        given,
        1e-5 if dtype == torch.float32 else 2e-2,
    )


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the interpreter
def test_an_ignored_row_may_hold_what_it_likes_and_no_label_gives_nan() -> None:
    z = random(3, 10).detach()
    z[1] = float("inf")
    label = torch.tensor([2, -100, 4], device=DEVICE)
    z.requires_grad_()
    loss = LossRows.apply(z, label, -100)
    (grad,) = torch.autograd.grad(loss, z)
    assert torch.isfinite(loss)
    assert bool((grad[1] == 0).all())
    assert bool(LossRows.apply(z, torch.full_like(label, -100), -100).isnan())
    with torch.no_grad():
        z[0, 0] = float("nan")
    assert bool(LossRows.apply(z, label, -100).isnan())


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_the_gradient_of_a_table_adds_up_the_rows_of_each_id(dtype: torch.dtype) -> None:
    """More tokens than a tile, ids that never come, a vocabulary that is no multiple of a tile."""
    ids = torch.randint(50, (3, 67), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    check(
        lambda table: TableRows.apply(ids, table),
        lambda table: looked_up(ids, table),
        [random(70, 24, dtype=dtype)],
    )
    dy = random(201, 24).detach()
    exact = torch.zeros(70, 24, dtype=torch.float64, device=DEVICE)
    exact.index_add_(0, ids.flatten(), dy.double())
    for config in ((1, 64, 64, 64, 2), (8, 16, 16, 16, 4)):
        found = table_gradient(ids.flatten(), dy, 70, config)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocab", [5, 84, 512])
def test_products_of_a_table_are_too_small_for_warpgroups(vocab: int) -> None:
    """Warpgroup products have 64 rows; theirs would have a computed left side."""
    assert table_config(16384, vocab, 256)[1] < 64


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
def test_a_linear_map_with_a_bias_equals_its_specification(dtype: torch.dtype) -> None:
    check(
        lambda x, w, b: LinearRows.apply(x, w, b, dtype),
        affine,
        [random(2, 77, 12, dtype=dtype), random(40, 12, dtype=dtype), random(40, dtype=dtype)],
        1e-5 if dtype == torch.float32 else None,
    )
    dy = random(201, 40).detach()
    for config in ((1, 16, 16, 4), (9, 16, 64, 4)):
        torch.testing.assert_close(bias_gradient(dy, config), dy.sum(0), rtol=1e-5, atol=1e-5)


def test_under_autocast_a_norm_writes_the_type_of_the_matmul_that_follows() -> None:
    x, weight = torch.zeros(2, 3), torch.ones(3)
    assert norm_dtype(x, weight) == torch.float32
    assert norm_dtype(x.to(BF16), weight) == torch.float32
    assert norm_dtype(x.to(BF16), None) == BF16
    with torch.autocast("cpu", BF16):
        assert norm_dtype(x, weight) == BF16


def test_the_public_functions_launch_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU by themselves; here the dispatch is told that it is one."""
    if DEVICE == "cpu":
        monkeypatch.setattr(rows, "on_triton", lambda *tensors: True)
    x, weight = random(3, 24), random(24)
    label = torch.zeros(3, dtype=torch.long, device=DEVICE)
    names = [
        made_by(normed(x, weight, None, EPS)),
        made_by(sum_normed(x, x, weight, None, EPS)[1]),
        made_by(gated(x, "silu")),
        made_by(looked_up(label, weight[None].expand(5, 24))),
        made_by(affine(x, x, weight[:3])),
    ]
    assert names == [
        "NormRowsBackward",
        "NormRowsBackward",
        "GateRowsBackward",
        "TableRowsBackward",
        "LinearRowsBackward",
    ]
    assert made_by(row_loss(x, label)) == "LossRowsBackward"
    assert made_by(head_loss(x, x, None, label)) == "HeadLossBackward"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("width", [128, 344, 1000, 4096, 16384])
def test_wide_rows_on_a_gpu(width: int) -> None:
    x, r = random(777, width), random(777, width, dtype=BF16, seed=1)
    given = x, r, random(width), random(width, seed=2)
    check(
        lambda x, r, w, b: NormRows.apply(x, r, w, b, EPS, True, BF16, True),
        lambda x, r, w, b: sum_normed(x, r, w, b, EPS, center=True),
        given,
    )
    z = random(777, 2 * width, dtype=BF16)
    check(lambda z: GateRows.apply(z, "gelu"), lambda z: gated(z, "gelu"), [z])
