"""The Triton engine of sparse attention against its float64 reference: o, lse, every gradient.

On a CPU the kernels run under Triton's interpreter in fp32; on a GPU in bf16 too, and larger.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ops.kernels import sparse
from ops.kernels.sparse import (
    SparsePattern,
    sparse_attention,
    sparse_blocks,
    sparse_documents,
    sparse_reference,
    tile_lists,
)

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from ops.kernels.sparse_launch import SparseTriton, sparse_config

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not CUDA, reason="no CUDA device")
# ||x - ref|| / ||ref||; three tf32 products make an fp32 one on the GPU
LIMIT = {torch.float32: 2e-5 if CUDA else 2e-6, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
SPLIT = (32, 16, 4, 1, "split", False)
BRANCH = (16, 32, 4, 2, "branch", True, 0, True)
MASKED = (32, 32, 4, 1, "masked", True)
FAR = (16, 32, 4, 1, "split", False, 0, False, 32)  # far queries in chunks of 32


def packed(t: int) -> Tensor:
    """Documents of many lengths, one of them a single token."""
    sizes = [t // 5, t // 3, 1, t // 6]
    sizes.append(t - sum(sizes))
    return torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))[None].to(DEVICE)


def patterns(t: int) -> Mapping[str, SparsePattern]:
    doc = packed(t)
    return {
        "causal": SparsePattern(ahead=0),
        "full": SparsePattern(),
        "window": SparsePattern(back=t // 5, ahead=0),
        "narrow": SparsePattern(back=0, ahead=0),
        "two-sided": SparsePattern(back=t // 6, ahead=t // 9),
        "sink": SparsePattern(back=t // 7, ahead=0, head=4),
        "prefix": SparsePattern(ahead=0, least=t // 3),
        "wide": SparsePattern(back=t // 9, ahead=t // 9, head=t // 4, top=t // 4),
        "dilated": SparsePattern(back=6, ahead=0, step=3),
        "documents": sparse_documents(doc, "full"),
        "packed": sparse_documents(doc, "causal"),
        "shared": sparse_documents(doc, "shared"),
        "last": sparse_documents(doc, "last"),
        "prefixes": sparse_documents(doc, "prefix", prefix=t // 8),
        "blocks": sparse_documents(doc, "blocks", block=t // 12),
    }


def random_blocks(t: int) -> Mapping[str, SparsePattern]:
    """Lists by segments of many sizes: of whole tiles, of parts of tiles, of single queries."""
    generator = torch.Generator().manual_seed(t)

    def table(rows: int, columns: int, heads: int = 2) -> Tensor:
        seen = torch.rand(1, heads, rows, columns, generator=generator) < 0.4
        seen[..., : min(rows, columns), : min(rows, columns)] |= torch.eye(min(rows, columns)) > 0
        return seen.to(DEVICE)

    def count(block: int) -> int:
        return -(-t // block)

    sizes = torch.tensor([t // 5, t // 3, t - t // 5 - t // 3])
    uneven = torch.repeat_interleave(torch.arange(3), sizes).to(DEVICE)
    return {
        "tiles": sparse_blocks(table(count(64), count(64)), 64, 64, t, causal=False),
        "wide tiles": sparse_blocks(table(count(128), count(128), 1), 128, 128, t, causal=True),
        "small": sparse_blocks(table(count(7), count(7)), 7, 7, t, causal=True),
        "uneven": sparse_blocks(table(3, 3), uneven, uneven, t, causal=False),
        "chosen": sparse_blocks(table(t, count(64)), 1, 64, t, causal=True),
    }


LOOPS = {name: (SPLIT, BRANCH, MASKED)[i % 3] for i, name in enumerate(patterns(100))}
LOOPS |= {"sink": FAR, "wide": FAR}


def moved(x: Any, device: str) -> Any:
    """A pattern or tensor on another device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, SparsePattern) and x.bounds is not None and x.spans is not None:
        return SparsePattern(bounds=x.bounds.to(device), spans=x.spans.to(device))
    return x


def errors(
    pattern: SparsePattern,
    *,
    t: int = 100,
    heads: tuple[int, int] = (2, 1),
    width: int = 24,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    config: tuple[Any, ...] | None = None,
    **extras: Any,
) -> dict[str, float]:
    """The relative errors of o, lse and the gradients, also that of the sinks' logits."""
    torch.manual_seed(t)
    shapes = [(batch, n, t, width) for n in (heads[0], heads[1], heads[1])]
    low = [torch.randn(s, device=DEVICE).to(dtype).requires_grad_() for s in shapes]
    low += [extras["sinks"].to(DEVICE).requires_grad_()] if "sinks" in extras else []
    exact = [x.detach().double().requires_grad_() for x in low]
    given = {"scale": width**-0.5, "cap": None, "slopes": None, "real": None, "own": False}
    given |= {k: moved(v, DEVICE) for k, v in extras.items() if k != "sinks"}
    sinks = exact[3] if len(exact) > 3 else None
    want = sparse_reference(*exact[:3], pattern, sinks=sinks, **given)
    given["own"], configs = bool(given["own"]), (config, config, config)
    parts = [given[n] for n in ("real", "slopes", "scale", "cap", "own")]
    got = SparseTriton.apply(
        *low[:3], low[3] if sinks is not None else None, pattern, *parts, configs
    )
    some = want[1].isfinite()
    assert torch.equal(got[1].isfinite(), some)
    seeds = [torch.randn_like(want[0]).to(dtype).double(), torch.randn_like(want[1]) * some]
    loss = (want[0] * seeds[0]).sum() + (want[1].masked_fill(~some, 0.0) * seeds[1]).sum()
    exact_grads = torch.autograd.grad(loss, exact)
    grads = torch.autograd.grad(got, low, [seeds[0].to(dtype), seeds[1].float()])
    pairs = [
        (got[0], want[0]),
        (got[1][some], want[1][some]),
        *zip(grads, exact_grads, strict=True),
    ]
    found = {}
    for name, (a, e) in zip(("o", "lse", "dq", "dk", "dv", "dsinks"), pairs, strict=False):
        a, e = a.detach().double(), e.detach()
        gap = float((a - e).norm() / e.norm().clamp_min(1e-3))
        found[name] = gap if gap == gap else float("inf")
    return found


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the launches allocate starts as NaN."""
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)
        filled = lambda *a, plain=plain, **k: plain(*a, **k).fill_(float("nan"))  # noqa: E731
        monkeypatch.setattr(torch, name, filled)


@pytest.mark.parametrize("name", list(LOOPS))
def test_outputs_and_gradients_of_every_pattern(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch)
    heads = (2, 1) if name in ("sink", "packed", "two-sided") else (1, 1)
    found = errors(patterns(75)[name], t=75, heads=heads, config=LOOPS[name])
    assert max(found.values()) <= LIMIT[torch.float32], found


@pytest.mark.parametrize("name", list(random_blocks(150)))
def test_outputs_and_gradients_of_lists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = random_blocks(150)[name]
    poisoned(monkeypatch)
    config = (64, 32, 4, 1, "branch" if name in ("small", "tiles") else "split", name == "uneven")
    found = errors(pattern, t=150, config=config, heads=(2, 2) if name == "tiles" else (2, 1))
    assert max(found.values()) <= LIMIT[torch.float32], found


def test_lists_name_the_seen_tiles_whole_ones_first() -> None:
    some = torch.tensor([[True, False, True, True], [False] * 4])
    whole = torch.tensor([[False, True, False, True], [False] * 4])
    counts, numbers = tile_lists(some, whole)
    assert counts.tolist() == [[1, 3], [0, 0]]
    assert numbers[0, :3].tolist() == [3, 0, 2]


@pytest.mark.parametrize("t", [1, 15, 63])
def test_short_and_ragged_sequences(t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch)
    found = errors(SparsePattern(back=9, ahead=0, head=2), t=t, width=40, config=SPLIT)
    assert max(found.values()) <= LIMIT[torch.float32], found


def test_slopes_cap_and_sinks_bend_the_logits() -> None:
    extras = {"cap": 3.0, "slopes": torch.tensor([0.5, 0.01]), "sinks": torch.tensor([1.0, -2.0])}
    found = errors(SparsePattern(back=40, ahead=0), t=45, config=SPLIT, **extras)
    assert max(found.values()) <= LIMIT[torch.float32], found
    found = errors(SparsePattern(back=4, ahead=2, step=5), t=45, config=BRANCH, **extras)
    assert max(found.values()) <= LIMIT[torch.float32], found


@pytest.mark.parametrize("own", [False, True])
def test_nobody_sees_padding_and_rows_without_keys_are_zero(own: bool) -> None:
    real = (torch.arange(40) < torch.tensor([40, 20, 0])[:, None]) & (torch.arange(40) > 1)
    pattern = SparsePattern(back=4, ahead=0)
    found = errors(pattern, t=40, batch=3, heads=(1, 1), config=SPLIT, real=real, own=own)
    assert max(found.values()) <= LIMIT[torch.float32], found
    q, k, v = (torch.randn(3, 1, 40, 16, device=DEVICE, requires_grad=True) for _ in range(3))
    parts = (real.to(DEVICE), None, 0.25, None, False, (SPLIT,) * 3)
    out, lse = SparseTriton.apply(q, k, v, None, pattern, *parts)
    (dq,) = torch.autograd.grad(out.sum(), q)
    blind = lse[:, 0] == float("-inf")
    assert blind.sum() == 2 + (2 + 40 - 24) + 40
    assert not out.transpose(1, 2)[blind].any()
    assert not dq.transpose(1, 2)[blind].any()


def test_a_layers_strides_are_read_and_kept() -> None:
    """q, k, v as views of one projection [B, T, 3 H K]; o in the order of the output projection."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 37, 3, 2, 16, device=DEVICE)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).requires_grad_().unbind(0)
    pattern = SparsePattern(back=7, ahead=0)
    parts = (None, pattern, None, None, 0.25, None, False, (SPLIT, MASKED, BRANCH))
    out, _ = SparseTriton.apply(q, k, v, *parts)
    assert out.transpose(1, 2).is_contiguous()
    want, _ = sparse_reference(q, k, v, pattern, scale=0.25)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    seed = torch.randn_like(out)
    for a, e in zip(*(torch.autograd.grad(y, (q, k, v), seed) for y in (out, want)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)


def test_the_areas_are_the_closed_forms() -> None:
    n, w, p, b = 96, 7, 20, 16
    area = {
        "full": (SparsePattern(), n * n),
        "causal": (SparsePattern(ahead=0), n * (n + 1) // 2),
        "window": (SparsePattern(back=w, ahead=0), sum(min(i, w) + 1 for i in range(n))),
        "prefix": (SparsePattern(ahead=0, least=p), n * (n + 1) // 2 + p * (p - 1) // 2),
        "blocks": (
            sparse_documents(torch.zeros(1, n, dtype=torch.long), "blocks", block=b),
            b * b * (n // b) * (n // b + 1) // 2,
        ),
    }
    for name, (pattern, want) in area.items():
        assert int(pattern.seen(n, torch.device("cpu")).sum()) == want, name


def test_limits_of_the_patterns_are_causal_and_full() -> None:
    n, cpu, one = 63, torch.device("cpu"), torch.zeros(1, 63, dtype=torch.long)
    causal = SparsePattern(ahead=0).seen(n, cpu)
    full = SparsePattern().seen(n, cpu)
    assert torch.equal(SparsePattern(back=n - 1, ahead=0).seen(n, cpu), causal)
    assert torch.equal(SparsePattern(back=n - 1, ahead=n - 1).seen(n, cpu), full)
    assert torch.equal(SparsePattern(ahead=0, least=n).seen(n, cpu), full)
    assert torch.equal(sparse_documents(one, "causal").seen(n, cpu), causal)
    assert torch.equal(sparse_documents(one, "full").seen(n, cpu), full)
    assert torch.equal(sparse_documents(one, "prefix", prefix=n).seen(n, cpu), full)
    kept = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert torch.equal(sparse_blocks(kept, 16, 16, n, causal=False).seen(n, cpu), full)
    assert torch.equal(sparse_blocks(kept, 16, 16, n, causal=True).seen(n, cpu), causal)


def test_tensors_on_a_gpu_take_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the question where tensors are is answered with yes; the kernels' counter must tick."""
    calls = []
    plain = SparseTriton.apply
    monkeypatch.setattr(SparseTriton, "apply", lambda *a: calls.append(1) or plain(*a))
    q, k, v = (torch.randn(1, 1, 20, 16, device=DEVICE) for _ in range(3))
    if not CUDA:
        sparse_attention(q, k, v, SparsePattern(ahead=0))
        assert not calls
        monkeypatch.setattr(sparse, "on_triton", lambda *_: True)
    out, lse = sparse_attention(q, k, v, SparsePattern(ahead=0))
    assert calls
    want = sparse_reference(q, k, v, SparsePattern(ahead=0), scale=0.25)
    torch.testing.assert_close((out, lse), want, rtol=1e-4, atol=1e-4)


# -- on a GPU --------------------------------------------------------------------------------------


@gpu
@needs_gpu
@pytest.mark.parametrize("width", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_head_width_on_the_gpu(width: int, dtype: torch.dtype) -> None:
    for name in ("wide", "packed", "dilated"):
        pattern = patterns(1000)[name]
        found = errors(pattern, t=1000, heads=(4, 2), width=width, batch=2, dtype=dtype)
        assert max(found.values()) <= LIMIT[dtype] * (2 if width == 16 else 1), (name, found)


@gpu
@needs_gpu
@pytest.mark.parametrize("name", list(LOOPS))
def test_every_pattern_on_the_gpu(name: str) -> None:
    found = errors(patterns(1500)[name], t=1500, width=64, dtype=torch.bfloat16)
    assert max(found.values()) <= LIMIT[torch.bfloat16], found


@gpu
@needs_gpu
@pytest.mark.parametrize("name", list(random_blocks(150)))
def test_pattern_of_lists_on_the_gpu(name: str) -> None:
    found = errors(random_blocks(1500)[name], t=1500, width=64, dtype=torch.bfloat16)
    assert max(found.values()) <= LIMIT[torch.bfloat16], found


@gpu
@needs_gpu
@pytest.mark.parametrize(
    "loops",
    [
        ("split", True),
        ("branch", False),
        ("masked", False),
        ("branch", True, 168, True),  # tiles of the keys transposed, fewer registers
        ("split", False, 0, True),
    ],
    ids=str,
)
def test_every_loop_on_the_gpu(loops: tuple[Any, ...]) -> None:
    config = (64, 64, 4, 2, *loops)
    pattern = patterns(1500)["sink"]
    found = errors(pattern, t=1500, width=64, dtype=torch.bfloat16, config=config)
    assert max(found.values()) <= LIMIT[torch.bfloat16], found


@gpu
@needs_gpu
def test_long_sequences_and_equal_bits_on_the_gpu() -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, 2, 20000, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    seed = torch.randn_like(q)
    for pattern in (SparsePattern(back=255, ahead=0, head=4), SparsePattern(ahead=0, least=3000)):
        runs = []
        for _ in range(2):
            out, lse = sparse_attention(q, k, v, pattern)
            runs.append([out, lse, *torch.autograd.grad(out, (q, k, v), seed)])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        rows = slice(19000, 20000)
        i, j = torch.arange(20000, device="cuda")[rows, None], torch.arange(20000, device="cuda")
        seen = (j <= i) & ((i - j <= pattern.band[0]) | (j < pattern.band[4]))
        z = q[:, :, rows].double() @ k.double().mT / 8
        want = z.masked_fill(~seen, float("-inf")).softmax(-1) @ v.double()
        gap = (runs[0][0][:, :, rows].double() - want).norm() / want.norm()
        assert gap <= LIMIT[torch.bfloat16]


@gpu
@needs_gpu
def test_a_graph_captures_forward_and_backward_and_runs_these_kernels() -> None:
    q, k, v = (
        torch.randn(2, 4, 500, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    doc = packed(500)

    def run() -> list[Tensor]:
        out, _ = sparse_attention(q, k, v, sparse_documents(doc, "causal"))
        grads = torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
        return [out.detach(), *grads]  # no graph is kept, which would belong to another stream

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        eager = run()
        torch.cuda.synchronize()
    names = " ".join(e.key for e in seen.key_averages())
    assert all(n in names for n in ("sparse_forward", "sparse_queries", "sparse_keys"))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


def test_a_configuration_serves_every_width_and_type() -> None:
    for part in ("forward", "queries", "keys"):
        for width in (16, 24, 64, 80, 128, 256):
            for dtype in (torch.bfloat16, torch.float32):
                m, n, warps, stages, loops, *_ = sparse_config(part, width, dtype, True)
                assert m % 16 == n % 16 == 0
                assert warps in (4, 8)
                assert stages >= 1
                assert loops in ("split", "branch", "masked")


def test_under_autocast_products_are_taken_in_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "on_triton", lambda *_: True)
    q = torch.randn(1, 1, 20, 16, device=DEVICE, requires_grad=True)
    with torch.autocast(DEVICE, dtype=torch.float16):
        out, lse = sparse_attention(q, q, q, SparsePattern(ahead=0))
    assert (out.dtype, lse.dtype) == (torch.float16, torch.float32)
    (grad,) = torch.autograd.grad(out.float().sum(), q)
    assert grad.dtype == torch.float32
    want, _ = sparse_reference(q, q, q, SparsePattern(ahead=0), scale=0.25)
    torch.testing.assert_close(out.float(), want, rtol=4e-3, atol=4e-3)
