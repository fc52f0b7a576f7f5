"""Fixed tokens: the input's ids are replaced by one fixed text, the same in every row.

    y_t = f_t,   f drawn once from the seed with frequencies 1 / (rank + 10) over the ids 1..vocab-1

It serves `fixedseqqk_attn`. Causal. Shapes: tokens [B, T] -> tokens [B, T], T at most the length at
building. The paper takes 2,048 tokens of a web corpus; a text with the frequencies of words is
drawn here, so that no corpus is needed. State: the position. No parameters; the text is kept with
the weights. Paper: "Deconstructing Attention", arXiv:2510.11602, variant "FixedSeqQK".
"""

from typing import Any

import torch
from torch import Tensor, nn

from ops.spec import Cost, Op, TensorType, need


class FixedTokens(nn.Module):
    text: Tensor

    def __init__(self, length: int, vocab: int, seed: int) -> None:
        super().__init__()
        chance = 1 / (torch.arange(max(1, vocab - 1)) + 10.0)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(chance, length, replacement=True, generator=generator)
        self.register_buffer("text", (drawn + 1).clamp_max(vocab - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.text[: x.shape[1]].expand_as(x)

    def init_state(self, batch: int, length: int) -> Tensor:
        return torch.zeros(1, dtype=torch.long, device=self.text.device)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.text[state].expand_as(x), state + 1


def _init(x: TensorType, seed: int) -> dict[str, Any]:
    return {"length": x.length, "vocab": x.vocab or 2, "seed": seed}


def _shape(x: TensorType, seed: int) -> TensorType:
    need(x, "tokens")
    return x


OP = Op(
    name="fixed_tokens",
    module=FixedTokens,
    init=_init,
    shape=_shape,
    cost=lambda x, seed: Cost(state=8),
    causal=True,
    needs=("seed",),
    fixed_length=True,
    state=True,
    paper="arXiv:2510.11602",
)
