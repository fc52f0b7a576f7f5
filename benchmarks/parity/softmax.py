"""Softmax attention against public packages: the same weights, outputs and gradients compared.

    python -m benchmarks.parity.softmax

Peers: torch; transformers (5.24), x-transformers (2.31), entmax (1.3), linformer (0.2.3),
nystrom-attention (0.0.14), reformer-pytorch (1.4.4). A peer that is not installed is named and left
out; the exit code is 1 if any pair differs without an explanation. Everything in float64;
transformers and x-transformers compute angles and softmax in float32, hence the tolerance of 1e-5.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.pairs import (
    DIM,
    HEADS,
    LENGTH,
    Function,
    Pair,
    copy,
    fill,
    part,
    table,
)
from ops.attention.differential import DifferentialAttention
from ops.attention.engine import split_heads
from ops.attention.linformer import Linformer
from ops.attention.mla import LatentAttention
from ops.attention.nystrom import NystromAttention
from ops.attention.reformer import ReformerAttention
from ops.attention.softmax import SoftmaxAttention
from ops.attention.sparse_weights import entmax_weights, sparsemax_weights
from ops.attention.talking_heads import TalkingHeads


def llama_weights(ours: SoftmaxAttention, theirs: Any) -> None:
    kv = torch.cat([theirs.k_proj.weight, theirs.v_proj.weight])
    copy([(ours.q.weight, theirs.q_proj.weight), (ours.kv.weight, kv)])
    copy([(ours.out.weight, theirs.o_proj.weight)])


def causal_bias(length: int) -> Tensor:
    hidden = torch.ones(length, length).triu(1).bool()
    return torch.zeros(1, 1, length, length).double().masked_fill(hidden, float("-inf"))


def torch_pairs() -> Iterator[Pair]:
    for zero in (False, True):
        theirs = fill(nn.MultiheadAttention(DIM, HEADS, batch_first=True, add_zero_attn=zero))
        ours = SoftmaxAttention(DIM, HEADS, bias=True, sink="one" if zero else "none").double()
        weight, bias = theirs.in_proj_weight, theirs.in_proj_bias
        copy([(ours.q.weight, weight[:DIM]), (ours.kv.weight, weight[DIM:])])
        copy([(ours.q.bias, bias[:DIM]), (ours.kv.bias, bias[DIM:])])
        copy([(ours.out.weight, theirs.out_proj.weight), (ours.out.bias, theirs.out_proj.bias)])
        yield Pair(
            "softmax_attn(bias, sink=one)" if zero else "softmax_attn(bias)",
            "torch MultiheadAttention" + (" add_zero_attn" if zero else ""),
            ours.alone,
            lambda x, theirs=theirs: theirs(x, x, x, need_weights=False)[0],
        )


def transformers_rotary() -> Iterator[Pair]:
    config_of = part("transformers", "Qwen3Config")
    base = "transformers.models.qwen3.modeling_qwen3"
    config = config_of(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=DIM // HEADS,
        attn_implementation="eager",
    )
    theirs = fill(part(base, "Qwen3Attention")(config, layer_idx=0))
    turn = part(base, "Qwen3RotaryEmbedding")(config)
    ours = SoftmaxAttention(DIM, HEADS, 2, True, "rope", qk_norm=True).double()
    llama_weights(ours, theirs)
    assert ours.q_scale is not None
    assert ours.k_scale is not None
    copy([(ours.q_scale, theirs.q_norm.weight), (ours.k_scale, theirs.k_norm.weight)])

    def peer(x: Tensor) -> Tensor:
        angles = turn(x, torch.arange(x.shape[1])[None])
        out: Tensor = theirs(x, angles, causal_bias(x.shape[1]))[0]
        return out

    yield Pair("softmax_attn(kv_heads, rope, qk_norm)", "transformers Qwen3", ours.alone, peer)


def transformers_cap() -> Iterator[Pair]:
    config = part("transformers", "Gemma2Config")(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=DIM // HEADS,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        layer_types=["full_attention"],
        num_hidden_layers=1,
        attn_implementation="eager",
    )
    base = "transformers.models.gemma2.modeling_gemma2"
    theirs = fill(part(base, "Gemma2Attention")(config, layer_idx=0))
    turn = part(base, "Gemma2RotaryEmbedding")(config)
    ours = SoftmaxAttention(DIM, HEADS, 2, True, "rope", scale=0.25, cap=2.0).double()
    llama_weights(ours, theirs)

    def peer(x: Tensor) -> Tensor:
        angles = turn(x, torch.arange(x.shape[1])[None])
        out: Tensor = theirs(x, angles, causal_bias(x.shape[1]))[0]
        return out

    yield Pair("softmax_attn(rope, cap, scale)", "transformers Gemma2", ours.alone, peer)


def transformers_t5() -> Iterator[Pair]:
    config_of = part("transformers", "T5Config")
    attention = part("transformers.models.t5.modeling_t5", "T5Attention")
    for causal in (False, True):
        config = config_of(
            d_model=DIM, num_heads=HEADS, d_kv=DIM // HEADS, dropout_rate=0.0, is_decoder=causal
        )
        theirs = fill(attention(config, has_relative_attention_bias=True, layer_idx=0))
        ours = SoftmaxAttention(DIM, HEADS, causal=causal, pos="t5", scale=1.0).double()
        kv = torch.cat([theirs.k.weight, theirs.v.weight])
        copy([(ours.q.weight, theirs.q.weight), (ours.kv.weight, kv)])
        copy([(ours.out.weight, theirs.o.weight)])
        copy([(ours.table, theirs.relative_attention_bias.weight)])

        def peer(x: Tensor, theirs: Any = theirs, causal: bool = causal) -> Tensor:
            mask = causal_bias(x.shape[1]) if causal else 0 * causal_bias(1)
            out: Tensor = theirs(x, mask=mask, cache_position=torch.arange(x.shape[1]))[0]
            return out

        name = f"softmax_attn(t5, scale=1{', causal' if causal else ''})"
        yield Pair(name, "transformers T5", ours.alone, peer)


def transformers_diff() -> Iterator[Pair]:
    pairs, width = HEADS, DIM // (2 * HEADS)
    config = part("transformers", "DiffLlamaConfig")(
        hidden_size=DIM,
        num_attention_heads=2 * pairs,
        num_key_value_heads=2 * pairs,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    base = "transformers.models.diffllama.modeling_diffllama"
    theirs = fill(part(base, "DiffLlamaAttention")(config, layer_idx=2))
    turn = part(base, "DiffLlamaRotaryEmbedding")(config)
    ours = DifferentialAttention(DIM, pairs, True, "rope", layer=2).double()
    order = (
        torch.arange(DIM).view(2, pairs, width).transpose(0, 1).flatten()
    )  # theirs: all first maps
    q, k, v = (getattr(theirs, f"{n}_proj").weight[order] for n in "qkv")
    copy([(ours.q.weight, q), (ours.kv.weight, torch.cat([k, v]))])
    copy([(ours.out.weight, theirs.o_proj.weight)])
    rows = [theirs.lambda_q1, theirs.lambda_k1, theirs.lambda_q2, theirs.lambda_k2]
    copy([(ours.pairs, torch.stack(rows).view(2, 2, width))])

    def peer(x: Tensor) -> Tensor:
        angles = turn(x, torch.arange(x.shape[1])[None])
        out: Tensor = theirs(x, angles, causal_bias(x.shape[1]))[0]
        return out

    yield Pair("diff_attn(rope, causal)", "transformers DiffLlama", ours, peer)


def transformers_mla() -> Iterator[Pair]:
    latent, still, turned, value, query = 12, 8, 6, 10, 14
    config = part("transformers", "DeepseekV2Config")(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=query,
        kv_lora_rank=latent,
        qk_nope_head_dim=still,
        qk_rope_head_dim=turned,
        v_head_dim=value,
        head_dim=turned,
        attn_implementation="eager",
    )
    base = "transformers.models.deepseek_v2.modeling_deepseek_v2"
    theirs = fill(part(base, "DeepseekV2Attention")(config, layer_idx=0))
    turn = part(base, "DeepseekV2RotaryEmbedding")(config)
    ours = LatentAttention(DIM, HEADS, latent, True, still, turned, value, query).double()
    halves = torch.arange(turned).view(-1, 2).mT.flatten()  # theirs turns neighbours, ours halves
    row = torch.cat([torch.arange(still), still + halves])
    rows = (torch.arange(HEADS)[:, None] * (still + turned) + row).flatten()
    down = torch.cat([torch.arange(latent), latent + halves])
    assert ours.q_down is not None
    assert ours.q_norm is not None
    copy([(ours.q_down.weight, theirs.q_a_proj.weight)])
    copy([(ours.q_norm, theirs.q_a_layernorm.weight), (ours.norm, theirs.kv_a_layernorm.weight)])
    copy([(ours.q.weight, theirs.q_b_proj.weight[rows])])
    copy([(ours.down.weight, theirs.kv_a_proj_with_mqa.weight[down])])
    copy([(ours.up.weight, theirs.kv_b_proj.weight), (ours.out.weight, theirs.o_proj.weight)])

    def peer(x: Tensor) -> Tensor:
        angles = turn(x, torch.arange(x.shape[1])[None])
        mask = causal_bias(x.shape[1])
        out: Tensor = theirs(x, attention_mask=mask, position_embeddings=angles)[0]
        return out

    yield Pair("mla(q_latent, causal)", "transformers DeepseekV2", ours, peer)


def x_weights(ours: Any, theirs: Any) -> None:
    kv = torch.cat([theirs.to_k.weight, theirs.to_v.weight])
    copy([(ours.q.weight, theirs.to_q.weight), (ours.kv.weight, kv)])
    copy([(ours.out.weight, theirs.to_out.weight)])


def x_transformers_pairs() -> Iterator[Pair]:
    attention = part("x_transformers.x_transformers", "Attention")
    plain = {"dim": DIM, "heads": HEADS, "dim_head": DIM // HEADS, "causal": True}

    def called(theirs: Any) -> Function:
        def peer(x: Tensor) -> Tensor:
            out = theirs(x)
            first: Tensor = out[0] if isinstance(out, tuple) else out
            return first

        return peer

    theirs = fill(attention(**plain, pre_talking_heads=True, post_talking_heads=True))
    talking = TalkingHeads(DIM, HEADS, True).double()
    x_weights(talking, theirs)
    mixes = [theirs.attend.pre_softmax_talking_heads, theirs.attend.post_softmax_talking_heads]
    eye = torch.eye(HEADS)  # theirs adds the mixed logits to the unmixed ones
    copy([(talking.mix_logits, mixes[0].weight[..., 0, 0].mT + eye)])
    copy([(talking.mix_weights, mixes[1].weight[..., 0, 0].mT)])
    yield Pair("talking_heads(causal)", "x-transformers", talking, called(theirs))

    theirs = fill(attention(**plain, gate_values=True))
    gated = SoftmaxAttention(DIM, HEADS, causal=True, gate="channel").double()
    x_weights(gated, theirs)
    assert gated.gate is not None
    copy([(gated.gate.weight, theirs.to_v_gate.weight)])
    yield Pair("softmax_attn(gate=channel)", "x-transformers", gated.alone, called(theirs))

    theirs = fill(attention(**plain, head_learned_sink=True))
    sink = SoftmaxAttention(DIM, HEADS, causal=True, sink="learned").double()
    x_weights(sink, theirs)
    assert sink.sink is not None
    copy([(sink.sink, theirs.attend.head_attn_sink)])
    yield Pair("softmax_attn(sink=learned)", "x-transformers", sink.alone, called(theirs))


def xpos_pairs() -> Iterator[Pair]:
    base, width = "x_transformers.x_transformers", DIM // HEADS
    turn = part(base, "RotaryEmbedding")(width, use_xpos=True)
    theirs = part(base, "Attention")(dim=DIM, heads=HEADS, dim_head=width, causal=True)
    theirs, ours = fill(theirs), SoftmaxAttention(DIM, HEADS, causal=True, pos="xpos").double()
    halves = torch.arange(width).view(-1, 2).mT.flatten()  # theirs turns neighbours, ours halves
    rows = (torch.arange(HEADS)[:, None] * width + halves).flatten()
    kv = torch.cat([theirs.to_k.weight[rows], theirs.to_v.weight])
    copy([(ours.q.weight, theirs.to_q.weight[rows]), (ours.kv.weight, kv)])
    copy([(ours.out.weight, theirs.to_out.weight)])

    def peer(x: Tensor) -> Tensor:
        out = theirs(x, rotary_pos_emb=turn.forward_from_seq_len(x.shape[1]))
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    yield Pair("softmax_attn(xpos, causal)", "x-transformers", ours.alone, peer)


def hashed_pairs() -> Iterator[Pair]:
    chunk, attention = 5, part("reformer_pytorch", "LSHAttention")
    for ordered in (False, True):
        ours = fill(ReformerAttention(DIM, HEADS, chunk, 1, ordered, LENGTH // chunk, 3))
        theirs = attention(bucket_size=chunk, n_hashes=1, causal=ordered)

        def hashes(count: int, x: Tensor, ours: ReformerAttention = ours, **_: object) -> Tensor:
            turned = x @ ours.turns[0]
            return torch.cat([turned, -turned], dim=-1).argmax(-1)

        theirs.hash_vectors = hashes  # the same rotation for both

        def peer(x: Tensor, theirs: Any = theirs, ours: ReformerAttention = ours) -> Tensor:
            qk, v = (split_heads(z, HEADS).flatten(0, 1) for z in (ours.qk(x), ours.v(x)))
            o = theirs(qk, v)[0].unflatten(0, (-1, HEADS))
            out: Tensor = ours.out(o.transpose(1, 2).flatten(2))
            return out

        name = f"reformer_attn(rounds=1{', ordered' if ordered else ''})"
        yield Pair(name, "reformer-pytorch, our rotation", ours, peer)


def entmax_pairs() -> Iterator[Pair]:
    bisect, exact, sparse = (part("entmax", n) for n in ("entmax_bisect", "entmax15", "sparsemax"))

    def weights(alpha: float) -> Function:
        return lambda x: entmax_weights(5 * x, None, x.new_tensor(alpha))

    yield Pair(
        "entmax_attn(alpha=1.25)", "entmax bisect", weights(1.25), lambda x: bisect(5 * x, 1.25)
    )
    yield Pair(
        "entmax_attn(alpha=1.5)", "entmax exact", weights(1.5), lambda x: exact(5 * x, dim=-1)
    )
    ours: Function = lambda x: sparsemax_weights(5 * x, None)  # noqa: E731  # a row of a table
    yield Pair("sparsemax_attn", "entmax sparsemax", ours, lambda x: sparse(5 * x, dim=-1))


def low_rank_pairs() -> Iterator[Pair]:
    theirs = fill(part("linformer", "LinformerSelfAttention")(DIM, LENGTH, k=9, heads=HEADS))
    ours = Linformer(DIM, HEADS, 9, False, LENGTH).double()
    qkv = torch.cat([theirs.to_q.weight, theirs.to_k.weight, theirs.to_v.weight])
    copy([(ours.qkv.weight, qkv), (ours.out.weight, theirs.to_out.weight)])
    copy([(ours.squeeze, torch.stack([theirs.proj_k, theirs.proj_v]).mT)])
    theirs.to_out.bias.data.zero_()
    yield Pair("linformer", "linformer", ours, theirs)


def nystrom_pairs() -> Iterator[Pair]:
    peer = part("nystrom_attention", "NystromAttention")
    for steps, note in ((24, ""), (6, "theirs starts from one norm for the whole batch")):
        theirs = fill(peer(DIM, DIM // HEADS, HEADS, 8, steps, residual_conv_kernel=5))
        ours = NystromAttention(DIM, HEADS, 8, 5, steps).double()
        assert ours.conv is not None
        copy([(ours.qkv.weight, theirs.to_qkv.weight), (ours.out.weight, theirs.to_out[0].weight)])
        copy([(ours.conv, theirs.res_conv.weight[:, 0, :, 0])])
        theirs.to_out[0].bias.data.zero_()
        yield Pair(f"nystrom(steps={steps})", "nystrom-attention", ours, theirs, note)


GROUPS = (
    torch_pairs,
    transformers_rotary,
    transformers_cap,
    transformers_t5,
    transformers_diff,
    transformers_mla,
    x_transformers_pairs,
    xpos_pairs,
    hashed_pairs,
    entmax_pairs,
    low_rank_pairs,
    nystrom_pairs,
)


if __name__ == "__main__":
    sys.exit(table(GROUPS))
