"""Token mixers, feed-forward layers, recurrences and pooling against public packages.

    python -m benchmarks.parity.mixers

Peers: g-mlp-pytorch (0.1.5), mlp-mixer-pytorch (0.3.1), aft-pytorch (0.2.2), transformers (5.24;
FNet, Mixtral, Llama), x-transformers (2.31), minGRU-pytorch (0.2.1), sentence-transformers (6.2). A
peer that is not installed is named and left out. Same weights, float64; where a peer computes in
float32 the tolerance of 1e-5 is what is left.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.pairs import DIM, LENGTH, Function, Pair, copy, fill, part, table
from ops.attention.aft import AttentionFree
from ops.linear.fnet import FourierMixer
from ops.linear.gmlp import GatingMLP
from ops.linear.mixer import TokenMixer
from ops.mlp.geglu import GeGLU
from ops.mlp.moe import MoE
from ops.mlp.swiglu import SwiGLU
from ops.pool.pool import Pool
from ops.recurrent.min_gru import MinGRU
from ops.recurrent.min_lstm import MinLSTM


def by_float(theirs: nn.Module) -> Function:
    """Called in fp32."""
    return lambda x: theirs(x.float()).double()


def same(pairs: list[tuple[Any, Any]]) -> None:
    """Weights and biases of linear layers, ours from theirs."""
    copy([(a.weight, b.weight.view_as(a.weight)) for a, b in pairs])
    copy([(a.bias, b.bias) for a, b in pairs if a.bias is not None and b.bias is not None])


def gmlp_pairs() -> Iterator[Pair]:
    block = part("g_mlp_pytorch", "gMLPBlock")
    for causal in (False, True):
        theirs = fill(block(dim=DIM, dim_ff=48, seq_len=LENGTH, causal=causal))
        ours = GatingMLP(DIM, 24, causal, LENGTH).double()
        same([(ours.up, theirs.proj_in[0]), (ours.down, theirs.proj_out)])
        same([(ours.norm, theirs.sgu.norm)])
        copy([(ours.spatial, theirs.sgu.weight[0]), (ours.bias, theirs.sgu.bias.mT)])
        yield Pair(f"gmlp{'(causal)' * causal}", "g-mlp-pytorch", ours, theirs)


def mixer_pairs() -> Iterator[Pair]:
    dense = functools.partial(nn.Conv1d, kernel_size=1)
    theirs = fill(
        part("mlp_mixer_pytorch.mlp_mixer_pytorch", "FeedForward")(LENGTH, 24, 0.0, dense)
    )
    ours = TokenMixer(LENGTH, 24).double()
    same([(ours.up, theirs[0]), (ours.down, theirs[3])])
    yield Pair("mixer(hidden=24)", "mlp-mixer-pytorch", ours, theirs)


def fourier_pairs() -> Iterator[Pair]:
    base = "transformers.models.fnet.modeling_fnet"
    config = part("transformers", "FNetConfig")(hidden_size=DIM)
    theirs = part(base, "FNetBasicFourierTransform")(config)
    yield Pair("fnet", "transformers FNet", FourierMixer(), lambda x: theirs(x)[0])


def attention_free_pairs() -> Iterator[Pair]:
    for kind, name in (("full", "AFTFull"), ("local", "AFTLocal"), ("simple", "AFTSimple")):
        more = {"s": 5} if kind == "local" else {}
        theirs = fill(part("aft_pytorch", name)(LENGTH, DIM, DIM, **more))
        ours = AttentionFree(DIM, False, kind, 7, 5, LENGTH).double()
        rows = [theirs.to_q, theirs.to_k, theirs.to_v]
        for layer in (*rows, theirs.project):
            layer.bias.data.zero_()
        theirs.float()  # it makes fp32 tables of its own
        copy([(ours.qkv.weight, torch.cat([z.weight for z in rows]))])
        copy([(ours.out.weight, theirs.project.weight)])
        if kind != "simple":
            theirs.wbias.data.copy_(ours.left @ ours.right.mT)
        yield Pair(f"aft(kind={kind})", "aft-pytorch in fp32", ours, by_float(theirs))


def expert_pairs() -> Iterator[Pair]:
    base = "transformers.models.mixtral.modeling_mixtral"
    config = part("transformers", "MixtralConfig")(
        hidden_size=DIM, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2
    )
    theirs = fill(part(base, "MixtralSparseMoeBlock")(config))
    ours = MoE(DIM, 24, 6, 2, aux=1.0, z=0.0).double().eval()
    copy([(ours.router, theirs.gate.weight)])
    copy([(ours.gate_up, theirs.experts.gate_up_proj.mT)])
    copy([(ours.down, theirs.experts.down_proj.mT)])
    yield Pair("moe", "transformers Mixtral", lambda x: ours(x)[0], theirs, layer=ours)
    balance = part(base, "load_balancing_loss_func")

    def loss(x: Tensor) -> Tensor:
        logits = theirs.gate(x)[0]
        value: Tensor = balance((logits,), 6, 2).to(x.dtype) / 2  # theirs sums over the slots
        return value

    yield Pair("moe, balance loss", "transformers Mixtral", lambda x: ours(x)[1], loss, layer=ours)


def gated_pairs() -> Iterator[Pair]:
    config = part("transformers", "LlamaConfig")(hidden_size=DIM, intermediate_size=24)
    theirs = fill(part("transformers.models.llama.modeling_llama", "LlamaMLP")(config))
    ours = SwiGLU(DIM, 24).double()
    both = torch.cat([theirs.gate_proj.weight, theirs.up_proj.weight])
    copy([(ours.gate_up.weight, both), (ours.down.weight, theirs.down_proj.weight)])
    yield Pair("swiglu", "transformers Llama", ours, theirs)


def gelu_gated_pairs() -> Iterator[Pair]:
    layer = part("x_transformers.x_transformers", "FeedForward")
    theirs = fill(layer(DIM, mult=0.75, glu=True))
    ours = GeGLU(DIM, 24).double()
    enter, leave = (z for z in theirs.modules() if isinstance(z, nn.Linear))
    enter.bias.data.zero_()
    leave.bias.data.zero_()
    value, gate = enter.weight.chunk(2)  # theirs has the value first
    copy([(ours.gate_up.weight, torch.cat([gate, value])), (ours.down.weight, leave.weight)])
    yield Pair("geglu", "x-transformers", ours, theirs)


def recurrent_pairs() -> Iterator[Pair]:
    for expansion in (1, 2):
        theirs = fill(part("minGRU_pytorch", "minGRU")(DIM, float(expansion)))
        gru = MinGRU(DIM, expansion * DIM, bias=False).double()
        hidden, gate = theirs.to_hidden_and_gate.weight.chunk(2)
        copy([(gru.gates.weight, torch.cat([gate, hidden]))])
        other = fill(part("minGRU_pytorch.minLSTM", "minLSTM")(DIM, float(expansion)))
        lstm = MinLSTM(DIM, expansion * DIM, bias=False).double()
        hidden, f, i = other.to_hidden_and_f_i_gate.weight.chunk(3)
        copy([(lstm.gates.weight, torch.cat([f, i, hidden]))])
        for name, mine, peer in (("min_gru", gru, theirs), ("min_lstm", lstm, other)):
            if mine.out is not None:
                same([(mine.out, peer.to_out)])
            yield Pair(f"{name}(expansion={expansion})", "minGRU-pytorch, log space", mine, peer)


def pool_pairs() -> Iterator[Pair]:
    pooling = part("sentence_transformers.models", "Pooling")
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [29]])
    kinds = {
        "mean": "mean",
        "max": "max",
        "sqrt": "mean_sqrt_len_tokens",
        "weighted": "weightedmean",
        "last": "lasttoken",
        "cls": "cls",
    }
    for kind, word in kinds.items():
        theirs, ours = pooling(DIM, word), Pool(kind)

        def peer(x: Tensor, theirs: Any = theirs) -> Tensor:
            given = {"token_embeddings": x, "attention_mask": mask.long()}
            y: Tensor = theirs(given)["sentence_embedding"]
            return y

        def mine(x: Tensor, ours: Pool = ours) -> Tensor:
            return ours(x, mask)

        yield Pair(f"pool(kind={kind}), padded", "sentence-transformers", mine, peer)


GROUPS = (
    gmlp_pairs,
    mixer_pairs,
    fourier_pairs,
    attention_free_pairs,
    expert_pairs,
    gated_pairs,
    gelu_gated_pairs,
    recurrent_pairs,
    pool_pairs,
)

if __name__ == "__main__":
    sys.exit(table(GROUPS))
