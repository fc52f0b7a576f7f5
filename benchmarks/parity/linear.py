"""Linear attention and its kin against public packages: the same weights, outputs and gradients.

    python -m benchmarks.parity.linear

Peers: transformers (5.24; Mamba-2 and MiniMax layers), torchscale (0.3; RetNet), performer-pytorch
(1.1.4), fla-core (0.6; its naive loops, which run on a CPU; our projections and norm around them
are written out here a second time). A peer that is not installed is named and left out; the exit
code is 1 if any pair differs without an explanation. Everything in float64, but fla's loops and
transformers' norms compute in float32, hence the tolerance of 1e-5. `cosformer` and the cosine
positions of `transnormer_attn` have no peer among installable packages: their recurrences are
compared, their features are checked by their own tests only.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.parity.pairs import DIM, HEADS, LENGTH, Pair, copy, fill, part, table
from ops.linear.attn import LinearAttention
from ops.linear.cosformer import CosFormer
from ops.linear.gla import GatedLinearAttention
from ops.linear.hgrn2 import HGRN2
from ops.linear.lightning import Lightning
from ops.linear.mamba2 import Mamba2
from ops.linear.performer import Performer
from ops.linear.retnet import Retention
from ops.linear.simple_gla import SimpleGatedAttention
from ops.linear.transnormer import TransNormerAttention

WIDTH = DIM // HEADS


def heads_of(x: Tensor, count: int) -> list[Tensor]:
    """[B, T, count D] as `count` tensors [B, T, heads, K], fla's layout."""
    return [z.unflatten(-1, (HEADS, -1)) for z in x.chunk(count, -1)]


def minimax(depth: int) -> Any:
    config = part("transformers", "MiniMaxConfig")(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH,
        num_hidden_layers=depth,
        block_size=16,
        rms_norm_eps=1e-6,
    )
    base = "transformers.models.minimax.modeling_minimax"
    theirs = fill(part(base, "MiniMaxLightningAttention")(config, layer_idx=0 if depth == 1 else 1))
    nn.init.ones_(theirs.norm.weight)
    nn.init.zeros_(theirs.output_gate.weight)  # sigmoid(0) = 1/2: undone below
    theirs.out_proj = nn.Identity()
    return theirs


def minimax_rows(theirs: Any) -> Tensor:
    """Theirs goes head by head (q, k, v), ours q, k and v over all heads."""
    weight: Tensor = theirs.qkv_proj.weight
    return weight.view(HEADS, 3, WIDTH, DIM).transpose(0, 1).reshape(3 * DIM, DIM)


class SiluOfTwo(nn.Module):
    """silu of q and k alone, as in the paper; MiniMax has it on v as well."""

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (HEADS, 3, WIDTH))
        return torch.cat([F.silu(parts[..., :2, :]), parts[..., 2:, :]], dim=-2).flatten(-3)


def lightning_pairs() -> Iterator[Pair]:
    theirs = minimax(depth=2)
    theirs.act_fn = nn.Identity()
    ours = TransNormerAttention(DIM, HEADS, False, "alibi", 1e-5, "none", False).double()
    copy([(ours.mix.weight, minimax_rows(theirs))])
    plain = lambda x: ours.out(2 * theirs(x, None, None)[0])  # noqa: E731  # a row of a table
    last = "transnormer_attn(lrpe=none, act=none, gate=false)"
    copy([(ours.slopes, theirs.slope_rate.flatten())])
    yield Pair(last, "transformers MiniMax, its slopes", ours, plain)

    other = minimax(depth=2)
    other.act_fn = SiluOfTwo()
    for name, layer in (
        ("lightning", Lightning(DIM, HEADS).double()),
        ("transnormer_attn(lrpe=none)", TransNormerAttention(DIM, HEADS, False).double()),
    ):
        weights = layer.qkvu if isinstance(layer, Lightning) else layer.mix
        gate = weights.weight[3 * DIM :].clone()
        copy([(weights.weight, torch.cat([minimax_rows(other), gate]))])
        copy([(layer.slopes, other.slope_rate.flatten())])

        def peer(x: Tensor, layer: Any = layer, weights: nn.Linear = weights) -> Tensor:
            gate = F.linear(x, weights.weight[3 * DIM :])
            y: Tensor = layer.out(2 * other(x, None, None)[0] * gate)
            return y

        yield Pair(name, "transformers MiniMax, paper's gate and silu", layer, peer)


def mamba_pairs() -> Iterator[Pair]:
    for head_dim, state in ((8, 16), (16, 5)):
        config = part("transformers", "Mamba2Config")(
            hidden_size=DIM,
            num_heads=2 * DIM // head_dim,
            head_dim=head_dim,
            state_size=state,
            n_groups=1,
            chunk_size=16,
        )
        base = "transformers.models.mamba2.modeling_mamba2"
        theirs = fill(part(base, "Mamba2Mixer")(config, layer_idx=0))
        ours = Mamba2(DIM, state, head_dim).double()
        copy([(ours.into.weight, theirs.in_proj.weight), (ours.out.weight, theirs.out_proj.weight)])
        bias = ours.conv.conv.bias
        assert bias is not None
        copy([(ours.conv.conv.weight, theirs.conv1d.weight), (bias, theirs.conv1d.bias)])
        copy([(ours.rate_log, theirs.A_log), (ours.dt_bias, theirs.dt_bias)])
        copy([(ours.skip, theirs.D), (ours.norm, theirs.norm.weight)])

        def peer(x: Tensor, theirs: Any = theirs) -> Tensor:
            out = theirs(x)
            first: Tensor = out[0] if isinstance(out, tuple) else out
            return first

        yield Pair(f"mamba2(state={state}, head_dim={head_dim})", "transformers Mamba2", ours, peer)


class RetNetArgs:
    """What torchscale's layer reads."""

    multiway = False
    layernorm_eps = 1e-12


def retnet_pairs() -> Iterator[Pair]:
    layer = part("torchscale.component.multiscale_retention", "MultiScaleRetention")
    theirs = fill(layer(RetNetArgs, DIM, 2 * DIM, HEADS))
    ours = Retention(DIM, HEADS).double()
    rates = 1 - 2.0 ** (-5 - torch.arange(HEADS).double())  # the buffer was rounded to fp32
    ours.eps, ours.decay = RetNetArgs.layernorm_eps, rates.log()
    halves = torch.arange(WIDTH).view(-1, 2).mT.flatten()  # theirs turns neighbours, ours halves
    rows = (torch.arange(HEADS)[:, None] * WIDTH + halves).flatten()
    qk = torch.cat([theirs.q_proj.weight[rows], theirs.k_proj.weight[rows]])
    vg = torch.cat([theirs.v_proj.weight, theirs.g_proj.weight])
    copy([(ours.qk.weight, qk), (ours.vg.weight, vg), (ours.out.weight, theirs.out_proj.weight)])
    place = torch.arange(LENGTH).double()
    age = place[:, None] - place
    kept = (rates[:, None, None] ** age.clamp_min(0)).tril()
    kept = kept / kept.sum(-1, keepdim=True).sqrt()
    standard, reach = (torch.arange(WIDTH // 2) / n for n in (WIDTH / 2, WIDTH / 2 - 1))
    note = "its angles end at 1/10000, rotary ones one step before"
    for powers, name in ((standard, "rotary angles"), (reach, "its own angles")):
        angle = place[:, None] * (10000.0 ** -powers.double()).repeat_interleave(2)

        def peer(x: Tensor, angle: Tensor = angle) -> Tensor:
            y: Tensor = theirs(x, ((angle.sin(), angle.cos()), kept))
            return y

        yield Pair("retnet", f"torchscale, {name}", ours, peer, note if powers is reach else "")


def retention_pairs() -> Iterator[Pair]:
    formula = part("fla.ops.retention.naive", "naive_retention")
    ours = fill(Retention(DIM, HEADS))

    def peer(x: Tensor) -> Tensor:
        q, k, v, gate = ours.project(x, torch.arange(x.shape[1]))
        o = F.rms_norm(formula(q * WIDTH**0.5, k, v).transpose(1, 2), (2 * WIDTH,), eps=1e-5)
        y: Tensor = ours.out(o.flatten(2) * F.silu(gate))
        return y

    yield Pair("retnet", "fla naive quadratic form, our rotation", ours, peer)


def performer_pairs() -> Iterator[Pair]:
    module = "performer_pytorch.performer_pytorch"
    attention = part(module, "SelfAttention")
    for kind, eps in (("softmax", 1e-4), ("relu", 1e-3)):
        theirs = fill(
            attention(
                DIM,
                heads=HEADS,
                dim_head=WIDTH,
                nb_features=20,
                generalized_attention=kind == "relu",
            )
        )
        ours = Performer(DIM, HEADS, 20, kind, False, 0).double()
        ours.eps = eps
        qkv = torch.cat([theirs.to_q.weight, theirs.to_k.weight, theirs.to_v.weight])
        copy([(ours.qkv.weight, qkv), (ours.out.weight, theirs.to_out.weight)])
        copy([(ours.rows, theirs.fast_attention.projection_matrix)])
        theirs.to_out.bias.data.zero_()
        yield Pair(f"performer(kind={kind})", f"performer-pytorch, eps {eps:g}", ours, theirs)

    features, ordered = (
        part(module, n) for n in ("softmax_kernel", "causal_linear_attention_noncuda")
    )
    notes = {0.0: "", 1e-4: "theirs measures eps by the largest key of all, later ones too"}
    for eps, note in notes.items():
        causal = fill(Performer(DIM, HEADS, 20, "softmax", True, 0))
        causal.eps = eps

        def peer(x: Tensor, causal: Any = causal, eps: float = eps) -> Tensor:
            q, k, v = (z.transpose(1, 2) for z in heads_of(causal.qkv(x), 3))
            made = {"projection_matrix": causal.rows, "eps": eps}
            q, k = features(q, is_query=True, **made), features(k, is_query=False, **made)
            y: Tensor = causal.out(ordered(q, k, v, eps=0.0).transpose(1, 2).flatten(2))
            return y

        yield Pair("performer(causal)", f"performer-pytorch, eps {eps:g}", causal, peer, note)


def linear_pairs() -> Iterator[Pair]:
    loop = part("fla.ops.linear_attn.naive", "naive_recurrent_linear_attn")
    layer = fill(LinearAttention(DIM, HEADS, causal=True))
    layer.eps = 1e-10

    def average(x: Tensor) -> Tensor:
        q, k, v = heads_of(layer.qkv(x), 3)
        o = loop(F.elu(q) + 1, F.elu(k) + 1, v, scale=1.0, normalize=True)[0]
        y: Tensor = layer.out(o.flatten(2).to(x.dtype))
        return y

    yield Pair("linear_attn(causal)", "fla naive loop, eps 1e-10", layer, average)
    cosine = fill(CosFormer(DIM, HEADS, LENGTH, causal=True))
    cosine.eps = 1e-10

    def reweighted(x: Tensor) -> Tensor:
        q, k, v = heads_of(cosine.qkv(x), 3)
        angle = torch.arange(x.shape[1]).double() * (torch.pi / (2 * LENGTH))
        turn = torch.stack([angle.cos(), angle.sin()], -1)[:, None, :, None]
        q, k = ((z.relu()[..., None, :] * turn).flatten(-2) for z in (q, k))
        y: Tensor = cosine.out(loop(q, k, v, scale=1.0, normalize=True)[0].flatten(2).to(x.dtype))
        return y

    yield Pair("cosformer(causal)", "fla naive loop, eps 1e-10", cosine, reweighted)


def gated_pairs() -> Iterator[Pair]:
    loop = part("fla.ops.gla.naive", "naive_recurrent_gla")
    gated = fill(GatedLinearAttention(DIM, HEADS, WIDTH // 2, WIDTH))

    def gla(x: Tensor) -> Tensor:
        q, k = heads_of(gated.qk(x), 2)
        v, gate = gated.vg(x).chunk(2, -1)
        g = F.logsigmoid(gated.decay(gated.low(x))) / 16
        (g,), (v,) = heads_of(g, 1), heads_of(v, 1)
        o = F.rms_norm(loop(q, k, v, g)[0], (WIDTH,), gated.norm, 1e-5).flatten(2)
        y: Tensor = gated.out(o * F.silu(gate))
        return y

    yield Pair("gla", "fla naive loop", gated, gla)
    expanded = fill(HGRN2(DIM, WIDTH, 0.25))

    def hgrn2(x: Tensor) -> Tensor:
        q, f, v = heads_of(expanded.qfv(x), 3)
        f = 0.25 + 0.75 * torch.sigmoid(f)
        o = loop(F.silu(q) * WIDTH**0.5, 1 - f, v, f.log())[0].flatten(2)
        y: Tensor = expanded.out(F.rms_norm(o, (DIM,), expanded.norm, 1e-5))
        return y

    yield Pair("hgrn2(bound=0.25)", "fla naive loop, scale 1", expanded, hgrn2)
    chunks = part("fla.ops.simple_gla.naive", "naive_chunk_simple_gla")
    simple = fill(SimpleGatedAttention(DIM, HEADS))

    def simple_gla(x: Tensor) -> Tensor:
        conv = simple.conv.conv.weight[:, 0]
        seen = F.pad(simple.qkv(x), (0, 0, 3, 0)).unfold(1, 4, 1)
        q, k, v = heads_of(F.silu((seen * conv).sum(-1)), 3)
        o = chunks(q, k, v, F.logsigmoid(simple.decay(x)) / 16, chunk_size=16)[0].to(x.dtype)
        o = F.rms_norm(o, (WIDTH,), simple.norm, 1e-5).flatten(2)
        y: Tensor = simple.out(o * F.silu(simple.gate(x)))
        return y

    yield Pair("simple_gla", "fla naive chunks of 16", simple, simple_gla)


GROUPS = (
    lightning_pairs,
    mamba_pairs,
    retnet_pairs,
    retention_pairs,
    performer_pairs,
    linear_pairs,
    gated_pairs,
)


if __name__ == "__main__":
    sys.exit(table(GROUPS))
