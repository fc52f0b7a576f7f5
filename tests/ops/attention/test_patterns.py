"""Ops whose pairs are a pattern compute with the sparse engine what they compute without it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ops.attention import bigbird, document, moba, nsa, pattern, softmax, window
from ops.attention.bigbird import BigBirdAttention
from ops.attention.dilated import DilatedAttention
from ops.attention.document import DocumentAttention
from ops.attention.moba import BlockMixtureAttention
from ops.attention.nsa import NativeSparseAttention
from ops.attention.prefix import PrefixAttention
from ops.attention.sink import SinkAttention
from ops.attention.softmax import SoftmaxAttention
from ops.attention.window import WindowAttention
from ops.kernels import sparse

pytest.importorskip("triton", reason="triton has no wheel for this platform")

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LENGTH = 39
MODULES: dict[str, Any] = {
    "window": lambda: WindowAttention(16, 1, window=9),
    "sink": lambda: SinkAttention(16, 1, window=9, sink=3),
    "dilated causal": lambda: DilatedAttention(16, 1, causal=True, window=5, dilation=3),
    "dilated": lambda: DilatedAttention(16, 1, window=5, dilation=2, pos="alibi"),
    "prefix": lambda: PrefixAttention(16, 1, prefix=11, pos="alibi"),
    "moba": lambda: BlockMixtureAttention(16, 1, block=8, top=2),
    "nsa": lambda: NativeSparseAttention(32, 2, kv_heads=1, block=8, top=3, window=9),
    "bigbird": lambda: BigBirdAttention(16, 1, block=4, global_blocks=1, random=1),
    "bigbird causal": lambda: BigBirdAttention(
        16, 1, causal=True, block=4, global_blocks=1, random=1
    ),
    "document": lambda: DocumentAttention(16, 1),
    "document causal": lambda: DocumentAttention(16, 1, causal=True),
    "cap": lambda: SoftmaxAttention(16, 1, causal=True, cap=2.0, pos="alibi"),
    "one": lambda: SoftmaxAttention(32, 2, kv_heads=1, sink="one"),
    "learned": lambda: SoftmaxAttention(16, 1, causal=True, sink="learned"),
}


def results(module: torch.nn.Module, padded: bool) -> list[Tensor]:
    """y, and the gradients of x and of all parameters."""
    torch.manual_seed(1)
    like = next(module.parameters())
    x = (
        torch.randn(2, LENGTH, module.out.in_features, dtype=torch.float64)
        .to(like)
        .requires_grad_()
    )
    ids = torch.randint(0, 9, (2, LENGTH)).to(like.device)
    mask = (torch.arange(LENGTH) < torch.tensor([LENGTH, 30])[:, None]).to(like.device)
    given = {"ids": ids} if isinstance(module, DocumentAttention) else {}
    y = module(x, **given, mask=mask if padded else None)
    y = y[0] if isinstance(y, tuple) else y
    y = y.masked_fill(~mask[..., None], 0.0) if padded else y
    seed = torch.randn(y.shape, dtype=torch.float64).to(like)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], seed)]


@pytest.mark.parametrize("name", list(MODULES))
def test_the_engine_computes_what_the_written_out_scores_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    padded = name in ("window", "sink", "document causal", "cap")
    module = MODULES[name]()
    want = results(module.double(), padded)
    calls: list[int] = []
    plain = sparse.SparseTriton.apply
    monkeypatch.setattr(sparse.SparseTriton, "apply", lambda *a: calls.append(1) or plain(*a))
    if not CUDA:
        for place in (sparse, pattern, window, document, softmax, moba, nsa):
            monkeypatch.setattr(place, "on_triton", lambda *_: True)
    got = results(module.float().to(DEVICE), padded)
    assert len(calls) == 1 + (name == "nsa")
    for a, e in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu().double(), e, rtol=1e-4, atol=2e-5)


def test_a_sink_with_places_of_its_own_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "on_triton", lambda *_: True)
    assert SinkAttention(16, 1, window=9, reindex=True).pattern(torch.arange(5)) is None


def test_bigbird_needs_no_lists_of_its_own() -> None:
    """Its blocks become the engine's tiles: the pairs are those of `allowed`."""
    for causal in (False, True):
        layer = BigBirdAttention(16, 1, causal=causal, block=8, global_blocks=1, random=2)
        place = torch.arange(100)
        seen = layer.pattern(place).seen(100, place.device)
        assert torch.equal(seen[0, 0], layer.allowed(place[:, None], place[None]))
    assert bigbird.OP.uses
