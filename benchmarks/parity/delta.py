"""Delta rules and RWKV against public packages: the same weights, outputs and gradients.

    python -m benchmarks.parity.delta

Peers: transformers (5.24; the Qwen3-Next layer), fla-core (0.6; its naive loops, around which our
projections and norms are written out a second time), rwkv (0.8.32; the model's author). A peer that
is not installed is named and left out. transformers, fla and rwkv hold states in float32, hence the
tolerance of 1e-5.
"""

import contextlib
import importlib
import inspect
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.parity.pairs import DIM, HEADS, Pair, copy, fill, part, table
from ops.kernels.mixing import heads_first, heads_last, shifted
from ops.linear.delta_net import DeltaNet
from ops.linear.gated_delta_net import GatedDeltaNet
from ops.linear.rwkv6 import RWKV6
from ops.linear.rwkv7 import RWKV7

WIDTH = DIM // HEADS


def filtered(z: Tensor, taps: Tensor) -> Tensor:
    """silu of a causal depthwise convolution, written as windows: taps [C, kernel]."""
    size = taps.shape[-1]
    return F.silu((F.pad(z, (0, 0, size - 1, 0)).unfold(1, size, 1) * taps).sum(-1))


def unit(z: Tensor) -> Tensor:
    return z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def delta_pairs() -> Iterator[Pair]:
    loop = part("fla.ops.delta_rule.naive", "delta_rule_recurrence")
    for negative in (False, True):
        ours = fill(DeltaNet(DIM, HEADS, 4, negative))

        def peer(x: Tensor, ours: Any = ours) -> Tensor:
            seen = filtered(ours.qkv(x), ours.conv.conv.weight[:, 0])
            q, k, v = (heads_first(z, HEADS) for z in seen.chunk(3, -1))
            beta = ours.top * ours.beta(x).sigmoid().mT
            o = loop(unit(q), unit(k), v, beta)[0].to(x.dtype)
            y: Tensor = ours.out(heads_last(F.rms_norm(o, (WIDTH,), ours.norm, 1e-5)))
            return y

        yield Pair(f"delta_net{'(negative)' * negative}", "fla naive loop", ours, peer)


def gated_delta_pairs() -> Iterator[Pair]:
    key, value = 6, 10
    loop = part("fla.ops.gated_delta_rule.naive", "naive_recurrent_gated_delta_rule")
    ours = fill(GatedDeltaNet(DIM, HEADS, key, value, 4, False))

    def peer(x: Tensor) -> Tensor:
        seen = filtered(ours.qkv(x), ours.conv.conv.weight[:, 0])
        q, k, v = seen.split([HEADS * key, HEADS * key, HEADS * value], -1)
        q, k, v = (z.unflatten(-1, (HEADS, -1)) for z in (q, k, v))
        raw, beta = ours.rates(x).chunk(2, -1)
        g = -ours.decay.exp() * F.softplus(raw + ours.pace)
        o = loop(unit(q), unit(k), v, beta.sigmoid(), g)[0].to(x.dtype)
        o = F.rms_norm(o, (value,), ours.norm, 1e-5).flatten(2)
        y: Tensor = ours.out(o * F.silu(ours.gate(x)))
        return y

    yield Pair("gated_delta_net", "fla naive loop", ours, peer)


def qwen_pairs() -> Iterator[Pair]:
    key, value = 6, 10
    config = part("transformers", "Qwen3NextConfig")(
        hidden_size=DIM,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=key,
        linear_value_head_dim=value,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        rms_norm_eps=1e-5,
    )
    base = "transformers.models.qwen3_next.modeling_qwen3_next"
    theirs = fill(part(base, "Qwen3NextGatedDeltaNet")(config, layer_idx=0))
    rule = "torch_chunk_gated_delta_rule"  # else fla's kernel serves it, where fla is there
    setattr(importlib.import_module(base), rule, inspect.unwrap(part(base, rule)))
    ours = GatedDeltaNet(DIM, HEADS, key, value, 4, False).double()
    rows = theirs.in_proj_qkvz.weight.unflatten(0, (HEADS, -1))  # theirs goes head by head
    parts = [z.flatten(0, 1) for z in rows.split([key, key, value, value], 1)]
    rates = theirs.in_proj_ba.weight.unflatten(0, (HEADS, 2)).flip(1).transpose(0, 1).flatten(0, 1)
    copy([(ours.qkv.weight, torch.cat(parts[:3])), (ours.gate.weight, parts[3])])
    copy([(ours.rates.weight, rates), (ours.conv.conv.weight, theirs.conv1d.weight)])
    copy([(ours.decay, theirs.A_log), (ours.pace, theirs.dt_bias)])
    copy([(ours.norm, theirs.norm.weight), (ours.out.weight, theirs.out_proj.weight)])

    def peer(x: Tensor) -> Tensor:
        out = theirs(x)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    yield Pair("gated_delta_net", "transformers Qwen3-Next", ours, peer)


def rwkv6_loop_pairs() -> Iterator[Pair]:
    loop = part("fla.ops.rwkv6.recurrent_naive", "naive_recurrent_rwkv6")
    ours = fill(RWKV6(DIM, HEADS, WIDTH // 2, 3, 5))

    def peer(x: Tensor) -> Tensor:
        r, k, v, rate, gate = ours.parts(x, shifted(x))
        o = loop(r, k, v, rate, ours.bonus, scale=1.0)[0].to(x.dtype)
        o = F.group_norm(heads_last(o).flatten(0, 1), HEADS, ours.scale, ours.shift, 6.4e-4)
        y: Tensor = ours.out(o.view_as(x) * gate)
        return y

    yield Pair("rwkv6(expand_k=0.5)", "fla naive loop, our shift", ours, peer)


def rwkv_package(name: str, version: int) -> Any:
    """A part of the author's package, which reads from the environment what it is to be."""
    words = {"RWKV_V7_ON": str(int(version == 7)), "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    os.environ.update(words)
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        module = importlib.reload(importlib.import_module("rwkv.model"))
    return getattr(module, name)


def by_row(function: Any) -> Any:
    """A function of one sequence, mapped over the batch."""
    return lambda x: torch.stack([function(row) for row in x.unbind(0)])


def rwkv6_pairs() -> Iterator[Pair]:
    layer = rwkv_package("RWKV", 6).att_seq_v6_0
    ours = fill(RWKV6(DIM, HEADS, WIDTH, 3, 5))
    order = [5, 2, 3, 1, 4]  # theirs has w, k, v, r, g; ours m, r, k, v, g, w
    names = [i - 1 for i in order]
    low = ours.low.weight.unflatten(0, (5, -1))[names].flatten(0, 1)
    square = [ours.key, ours.value, ours.receptance, ours.gate, ours.out]
    weights = [ours.scale, ours.shift, ours.mix[0], *(ours.mix[i] for i in order)]
    weights += [low.mT, ours.high[names], ours.decay.down.weight.mT, ours.decay.up.weight.mT]
    weights += [ours.decay.up.bias.view(HEADS, WIDTH, 1), ours.bonus[..., None]]
    weights = [w.float() for w in (*weights, *(z.weight.mT for z in square))]

    def alone(x: Tensor) -> Tensor:
        x = x.float()
        start, zeros = x.new_zeros(HEADS, WIDTH, WIDTH), torch.zeros_like(x[0])
        made = layer(None, x, zeros, start, zeros + 1, zeros, *weights, *[None] * 20)
        y: Tensor = (made[0] - x).double()
        return y

    normed = lambda x: F.layer_norm(x, (DIM,))  # noqa: E731  # theirs norms its input
    peer = "rwkv, its v6 layer in fp32"
    yield Pair("rwkv6(expand_k=1)", peer, lambda x: ours(normed(x)), by_row(alone), layer=ours)


def rwkv7_pairs() -> Iterator[Pair]:
    layer = rwkv_package("RWKV_x070_TMix_seq", 7)
    for first in (False, True):
        ours = fill(RWKV7(DIM, WIDTH, (3, 4, 5, 2)))
        ours.eps = 64e-5  # theirs has heads of 64
        low = [ours.decay, ours.rate, ours.blend]
        maps = [(m.up.bias, m.down.weight.mT, m.up.weight.mT) for m in low]
        gate = (ours.gate.down.weight.mT, ours.gate.up.weight.mT)
        square = [z.weight.mT for z in (ours.receptance, ours.key, ours.value, ours.out)]
        # theirs has r w k v a g, ours r k v g w a, and writes into what their gradient would need
        mixes = [ours.mix[i].detach() for i in (0, 4, 1, 2, 5, 3)]
        values = torch.randn(2, 40, DIM, dtype=torch.float64)

        def alone(x: Tensor, v: Tensor, index: int, given: Any) -> Tensor:
            start = x.new_zeros(HEADS, WIDTH, WIDTH, dtype=torch.float32)
            y: Tensor = layer(index, HEADS, WIDTH, x, torch.zeros_like(x[0]), v, start, *given)[0]
            return y

        given = [*mixes, *(z for m in maps for z in m), *gate, ours.removed, ours.kept]
        given += [ours.bonus, *square, ours.scale, ours.shift]

        def peer(
            x: Tensor, values: Tensor = values, index: int = int(first), given: Any = given
        ) -> Tensor:
            rows = zip(x.unbind(0), values.unbind(0), strict=True)
            return torch.stack([alone(row, v, index, given) for row, v in rows])

        def mine(
            x: Tensor, ours: Any = ours, values: Tensor | None = values if first else None
        ) -> Tensor:
            y: Tensor = ours.alone(x, values)
            return y

        name = "rwkv7(first=@lead.v)" if first else "rwkv7"
        yield Pair(name, "rwkv, its v7 layer", mine, peer, layer=ours)


def rwkv7_loop_pairs() -> Iterator[Pair]:
    loop = part("fla.ops.generalized_delta_rule.dplr.naive", "dplr_recurrence")
    ours = fill(RWKV7(DIM, WIDTH, (3, 4, 5, None)))

    def peer(x: Tensor) -> Tensor:
        r, k, v, a, b, g, gate, _ = ours.parts(x, shifted(x), None)
        o = loop(r * WIDTH**0.5, k, v, a.float(), b, g)[0].to(x.dtype)
        y: Tensor = ours.merge(o, r, k, v, gate)
        return y

    yield Pair("rwkv7", "fla naive loop, our projections", ours.alone, peer)


GROUPS = (
    delta_pairs,
    gated_delta_pairs,
    qwen_pairs,
    rwkv6_loop_pairs,
    rwkv6_pairs,
    rwkv7_loop_pairs,
    rwkv7_pairs,
)

if __name__ == "__main__":
    sys.exit(table(GROUPS))
