"""Attention to a part of the keys against public packages: the same weights, outputs, gradients.

    python -m benchmarks.parity.sparse

Peers: local-attention (1.11.2), routing-transformer (1.6.1), sinkhorn-transformer (0.11.4),
fla-core (0.6; its naive functions of native sparse attention). They attend; our projections are
given to them. A peer that is not installed is named and left out. Everything in float64, but fla
attends in float32.
"""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.parity.pairs import DIM, HEADS, Pair, fill, part, table
from ops.attention.engine import split_heads
from ops.attention.nsa import NativeSparseAttention
from ops.attention.routing import RoutingAttention
from ops.attention.sinkhorn import SinkhornAttention
from ops.attention.window import WindowAttention

WIDTH = DIM // HEADS


def joined(o: Tensor) -> Tensor:
    """[B, heads, T, K] -> [B, T, D]."""
    return o.transpose(1, 2).flatten(2)


def window_pairs() -> Iterator[Pair]:
    local = part("local_attention", "LocalAttention")
    for window in (4, 10):
        theirs = local(window, causal=True, exact_windowsize=True, use_rotary_pos_emb=False)
        ours = fill(
            WindowAttention(DIM, HEADS, window + 1)
        )  # theirs does not count the token itself

        def peer(x: Tensor, theirs: Any = theirs, ours: Any = ours) -> Tensor:
            q, k, v = (split_heads(z, HEADS) for z in ours.qkv(x).chunk(3, -1))
            y: Tensor = ours.out(joined(theirs(q, k, v)))
            return y

        yield Pair(f"window_attn(window={window + 1})", "local-attention", ours, peer)


def routing_pairs() -> Iterator[Pair]:
    base = "routing_transformer.routing_transformer"
    attention, mean = part(base, "KmeansAttention"), part(base, "scatter_mean")
    for eps in (0.0, 1e-5):
        ours = fill(RoutingAttention(DIM, HEADS, 4, 10, False, False, 0.999, 1e-4))
        theirs = attention(4, 10, HEADS, WIDTH).double().eval()
        theirs.kmeans.means.copy_(ours.means)
        theirs.kmeans.initted.fill_(True)

        def peer(x: Tensor, theirs: Any = theirs, ours: Any = ours, eps: float = eps) -> Tensor:
            def averaged(*given: Any) -> Any:
                return mean(*given, eps=eps or 1e-300)

            importlib.import_module(base).scatter_mean = averaged  # type: ignore[attr-defined]  # a peer's
            q, k, v = (split_heads(z, HEADS) for z in ours.project(x).chunk(3, -1))
            q, k = F.layer_norm(q, (WIDTH,)), F.layer_norm(k, (WIDTH,))
            y: Tensor = ours.out(joined(theirs(q, k, v)[0]))
            return y

        name = f"routing-transformer, count + {eps:g}, our norm"
        note = "a token's clusters are counted with 1e-5 more" if eps else ""
        yield Pair("routing_attn", name, lambda x, ours=ours: ours(x)[0], peer, note, ours)


def sinkhorn_pairs() -> Iterator[Pair]:
    base = "sinkhorn_transformer.sinkhorn_transformer"
    importlib.import_module(base).sample_gumbel = (  # type: ignore[attr-defined]  # a peer's
        lambda shape, device, dtype: torch.zeros(shape, dtype=dtype)
    )
    theirs = part(base, "SinkhornAttention")(8, DIM, WIDTH, HEADS, 40, non_permutative=False).eval()
    for same in (True, False):
        ours = fill(SinkhornAttention(DIM, HEADS, 8))
        if same:
            ours.qkv.weight.data[2 * DIM :] = ours.qkv.weight.data[DIM : 2 * DIM]

        def peer(x: Tensor, ours: Any = ours) -> Tensor:
            q, k, v = (split_heads(z, HEADS) for z in ours.qkv(x).chunk(3, -1))
            y: Tensor = ours.out(joined(theirs(q, k, v)))
            return y

        note = "" if same else "theirs sorts the keys where the values belong"
        word = "v = k" if same else "v of its own"
        name = f"sinkhorn-transformer, no noise, {word}"
        # with its defect the sorted values' gradient goes to the keys: only W_o is comparable
        yield Pair("sinkhorn_attn", name, ours, peer, note, ours.out)


def native_pairs() -> Iterator[Pair]:
    base = "fla.ops.nsa.naive"
    compress, select, choose = (
        part(base, f"naive_nsa_{name}") for name in ("compression", "selection", "topk")
    )
    for groups, top in ((2, 3), (1, 4), (4, 4)):
        ours = fill(NativeSparseAttention(DIM, HEADS, groups, 4, top, 7))

        def peer(x: Tensor, ours: Any = ours, top: int = top) -> Tensor:
            q, k, v = (z.transpose(1, 2) for z in ours.project(x, x, torch.arange(x.shape[1])))
            small = [z.unflatten(1, (-1, 4)).mean(2) for z in (k, v)]
            scale = WIDTH**-0.5
            blocks = choose(q, small[0], top, 4, scale)
            outs = [compress(q, *small, 4, scale)[0], select(q, k, v, blocks, 4, scale)]
            gap = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
            wide = [z.repeat_interleave(HEADS // z.shape[2], 2).transpose(1, 2) for z in (q, k, v)]
            near = F.scaled_dot_product_attention(*wide, attn_mask=(gap >= 0) & (gap < 7))
            gates = ours.gate(x).sigmoid().unflatten(-1, (3, HEADS, 1)).unbind(2)
            parts = zip(gates, [*outs, near.transpose(1, 2)], strict=True)
            y: Tensor = ours.out(sum(g * o for g, o in parts).flatten(2))
            return y

        name = f"nsa_attn(kv_heads={groups}, block=4, top={top}, window=7)"
        yield Pair(name, "fla naive choice and branches", ours, peer)


GROUPS = (window_pairs, routing_pairs, sinkhorn_pairs, native_pairs)

if __name__ == "__main__":
    sys.exit(table(GROUPS))
