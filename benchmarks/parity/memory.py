"""The neural memory of Titans against titans-pytorch: the same weights, outputs and gradients.

    python -m benchmarks.parity.memory

Peer: titans-pytorch (0.5.5), with one token a chunk, our chunk as its batch, the summed loss of the
paper, no norm and no residual inside the memory. It takes the inner gradient by `vmap(grad)` and
differentiates through it; ours is in closed form. Its queries and keys get silu and length 1, as
ours; its read goes through our norm, gate and projection. Everything in float64.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.parity.pairs import DIM, Pair, copy, fill, part, table
from ops.memory.neural import NeuralMemory


class SiluUnit(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(F.silu(x).unflatten(-1, (self.heads, -1)), dim=-1).flatten(-2)


def peer_memory(ours: NeuralMemory, depth: int, chunk: int) -> Any:
    heads, width = ours.heads, DIM // ours.heads
    inner = part("titans_pytorch", "MemoryMLP")(width, depth, expansion_factor=2.0)
    theirs: Any = part("titans_pytorch", "NeuralMemory")(
        DIM,
        dim_head=width,
        heads=heads,
        chunk_size=1,
        batch_size=chunk,
        model=inner,
        store_memory_loss_fn=lambda y, v: (y - v).square().sum(-1),
        default_step_transform_max_lr=ours.rate,
        pre_rmsnorm=False,
        mem_model_norm_add_residual=False,
    )
    theirs = theirs.double()
    rows = []
    for name in ("queries", "keys", "values"):
        linear = nn.Linear(DIM, DIM, bias=False).double()
        nn.init.normal_(linear.weight, std=0.3)
        rows.append(linear.weight)
        act = nn.SiLU() if name == "values" else SiluUnit(heads)
        setattr(theirs, f"to_{name}", nn.Sequential(linear, act))
    gates = [theirs.to_decay_factor[0], theirs.to_momentum[0], theirs.to_adaptive_step[0]]
    copy([(ours.qkv.weight, torch.cat(rows))])
    copy([(ours.gates.weight, torch.cat([g.weight for g in gates]))])
    copy([(ours.gates.bias, torch.cat([g.bias for g in gates]))])
    copy(list(zip(ours.start, theirs.memory_model_parameters, strict=True)))
    theirs.retrieve_gate, theirs.combine_heads = None, nn.Identity()
    return theirs


def memory_pairs() -> Iterator[Pair]:
    for depth, chunk, heads in ((1, 1, 1), (1, 8, 4), (2, 1, 4), (2, 8, 1), (2, 16, 4)):
        ours = fill(NeuralMemory(DIM, heads, depth, 2, chunk, 1, "gelu", 0.2))
        nn.init.ones_(ours.filter)
        theirs = peer_memory(ours, depth, chunk)

        def peer(x: Tensor, ours: Any = ours, theirs: Any = theirs) -> Tensor:
            read = theirs(x)[0].unflatten(-1, (ours.heads, -1)).transpose(1, 2)
            y: Tensor = ours.merge(read, x)
            return y

        name = f"neural_memory(depth={depth}, chunk={chunk}, heads={heads}, conv=1)"
        yield Pair(name, f"titans-pytorch, batches of {chunk}", ours, peer)


GROUPS = (memory_pairs,)

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(table(GROUPS))
