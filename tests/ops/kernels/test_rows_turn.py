"""Queries and keys as they meet: the kernels equal norm and rotation in plain PyTorch."""

import pytest
import torch
from torch import Tensor

from ops.kernels import positions
from ops.kernels.positions import meeting, rotary
from ops.kernels.rows_turn_launch import MeetRows, TurnRows, turn_backward
from tests.ops.kernels.equal import DEVICE, check, made_by, poisoned, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")
# The angles of fp32 differ from those of float64 by up to 1e-6 a place.
ROUGH = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", list(ROUGH), ids=str)
def test_a_turn_equals_its_specification_for_any_layout(dtype: torch.dtype) -> None:
    """Heads outside of time and inside; positions that start late."""
    place = torch.arange(3, 22, device=DEVICE)
    for shape, swap in [((2, 3, 19, 24), False), ((1, 19, 2, 8), True)]:

        def laid(f: object, swap: bool = swap) -> object:
            return lambda x: f(x.transpose(1, 2) if swap else x, place)  # type: ignore[operator]

        check(laid(TurnRows.apply), laid(rotary), [random(*shape, dtype=dtype)], ROUGH[dtype])


@pytest.mark.parametrize("dtype", list(ROUGH), ids=str)
@pytest.mark.parametrize("turn", [True, False])
@pytest.mark.parametrize("gained", [True, False])
def test_a_meeting_equals_its_specification(gained: bool, turn: bool, dtype: torch.dtype) -> None:
    """Three query heads and one of keys; without a turn the keys are of another sequence."""
    if not (gained or turn):
        return  # nothing to do: no kernel
    b, t, s, width = 2, 19, 19 if turn else 5, 8
    place = torch.arange(t, device=DEVICE)
    inputs = [random(b, t, 3 * width, dtype=dtype), random(b, s, 2 * width, dtype=dtype)]
    inputs += [random(width), random(width, seed=1)] * gained

    def kernel(q: Tensor, kv: Tensor, *gains: Tensor) -> tuple[Tensor, ...]:
        both = gains or (None, None)
        found: tuple[Tensor, ...] = MeetRows.apply(q, kv, place, *both, width, 1e-6, turn)
        return found

    def plain(q: Tensor, kv: Tensor, *gains: Tensor) -> tuple[Tensor, ...]:
        pair = (gains[0], gains[1]) if gains else None
        return meeting(q, kv, place, width, gains=pair, turn=turn)

    check(kernel, plain, inputs, ROUGH[dtype])


def test_tiles_of_any_size_give_the_same_gradients() -> None:
    place = torch.arange(11, device=DEVICE)
    q, kv = random(2, 11, 3, 8).detach(), random(2, 11, 2, 2, 8).detach()
    gains = random(8).detach(), random(8, seed=1).detach()
    dy = [random(2, 11, n, 8, seed=n).detach() for n in (3, 2)]
    found = []
    for config in ((16, 4, 4), (4, 1, 4), (2, 2, 4)):
        with poisoned():
            found.append(turn_backward((*dy, dy[1]), q, kv, place, gains, 1e-6, True, config))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_the_public_functions_launch_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(positions, "on_triton", lambda *tensors: True)
    x, place = random(1, 2, 3, 4), torch.arange(3, device=DEVICE)
    assert made_by(rotary(x, place)) == "TurnRowsBackward"
    met = meeting(x[:, 0], x[:, :, :2].flatten(2), place, 4, turn=True)
    assert [made_by(y) for y in met] == ["MeetRowsBackward"] * 3


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 4, 32), (8, 2, 64), (2, 2, 256)])
def test_long_meetings_on_a_gpu(heads: int, groups: int, width: int) -> None:
    place = torch.arange(1000, device=DEVICE)
    inputs = [
        random(3, 1000, heads * width, dtype=torch.bfloat16),
        random(3, 1000, 2 * groups * width, dtype=torch.bfloat16),
        random(width),
        random(width, seed=1),
    ]
    check(
        lambda q, kv, a, b: MeetRows.apply(q, kv, place, a, b, width, 1e-6, True),
        lambda q, kv, a, b: meeting(q, kv, place, width, gains=(a, b), turn=True),
        inputs,
        2e-2,
    )
