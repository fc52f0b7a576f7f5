"""Multi-head latent attention: keys and values are read from one small vector a token.

    c_s = RMS(x_s W_c) [R],   k_s = [c_s U_k ; rope(x_s W_r)],   v_s = c_s U_v
    q_t = [n_t ; rope(r_t)] = x_t W_q,  or of RMS(x_t W_a) [`q_latent`]
    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(N + P)) v_s

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D]; per head: N = `nope` wide without
position, P = `rope` wide with rotary positions (the key's part is shared by the heads), V = `value`
wide values; N and V are D / heads unless given, P half of that, made even. Mask: keys at padding
are left out. State: c and the rotated key of all tokens so far, R + P numbers a token, and the
position; `step` never forms k or v: U_k goes to the query, U_v to the output. Cost: D (R + P) + R +
R heads (N + V) + heads V D parameters and those of q, D heads (N + P) or Q D + Q + Q heads (N + P);
FLOPs twice the matrices per token and 2 T^2 heads (N + P + V). Paper: DeepSeek-AI 2024,
"DeepSeek-V2", arXiv:2405.04434, section 2.1.2-2.1.3, eq. 9-19.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import masked_softmax, split_heads
from ops.kernels.positions import ROTARY, rotary
from ops.spec import Cost, Mismatch, Op, TensorType, need


class LatentAttention(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        latent: int,
        causal: bool,
        nope: int,
        rope: int,
        value: int,
        q_latent: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.nope, self.rope, self.causal = heads, nope, rope, causal
        self.scale = (nope + rope) ** -0.5
        self.q_down = None if q_latent is None else nn.Linear(dim, q_latent, bias=False)
        self.q_norm = None if q_latent is None else nn.Parameter(torch.ones(q_latent))
        self.q = nn.Linear(q_latent or dim, heads * (nope + rope), bias=False)
        self.down = nn.Linear(dim, latent + rope, bias=False)
        self.norm = nn.Parameter(torch.ones(latent))
        self.up = nn.Linear(latent, heads * (nope + value), bias=False)
        self.out = nn.Linear(heads * value, dim, bias=False)

    def project(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, T, N + P], c [B, T, R] and the rotated key [B, T, P]."""
        inner = x
        if self.q_down is not None and self.q_norm is not None:
            inner = F.rms_norm(self.q_down(x), self.q_norm.shape, None, 1e-6) * self.q_norm
        still, turned = torch.split(
            split_heads(self.q(inner), self.heads), [self.nope, self.rope], -1
        )
        c, key = torch.split(self.down(x), [self.norm.shape[0], self.rope], -1)
        c = F.rms_norm(c, self.norm.shape, None, 1e-6) * self.norm.to(c.dtype)
        q = torch.cat([still, rotary(turned, place)], dim=-1)
        return q, c, rotary(key, place)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        q, c, key = self.project(x, place)
        rows = split_heads(self.up(c), self.heads)
        still, v = rows[..., : self.nope], rows[..., self.nope :]
        k = torch.cat([still, key[:, None].expand(-1, self.heads, -1, -1)], dim=-1)
        seen = None
        if mask is not None:
            seen = mask[:, None, None, :] & (place[:, None] >= place if self.causal else True)
            seen = seen | (place[:, None] == place)  # a row at padding alone stays finite
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=self.causal and seen is None, scale=self.scale
        )
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        place = torch.zeros(1, dtype=torch.long, device=weight.device)
        latent = weight.new_zeros(batch, length, self.norm.shape[0])
        return latent, weight.new_zeros(batch, length, self.rope), place

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        latents, keys, place = state
        q, c, key = self.project(x, place)
        latents, keys = latents.index_copy(1, place, c), keys.index_copy(1, place, key)
        rows = torch.unflatten(self.up.weight, 0, (self.heads, -1))
        still, turned = torch.split(q, [self.nope, self.rope], -1)
        still = still @ rows[:, : self.nope]
        scores = still @ latents[:, None].mT + turned @ keys[:, None].mT
        seen = torch.arange(keys.shape[1], device=x.device)[None] <= place[:, None]
        weights = masked_softmax(scores * self.scale, seen)
        y = (weights @ latents[:, None]) @ rows[:, self.nope :].mT
        return self.out(y.transpose(1, 2).flatten(2)), (latents, keys, place + 1)


def _widths(
    x: TensorType, heads: int, nope: int | None, rope: int | None, value: int | None
) -> tuple[int, int, int]:
    need(x, "seq")
    width = max(1, x.dim // heads)
    turned = max(2, width // 2 // 2 * 2) if rope is None else rope
    if turned % 2:
        raise Mismatch(f"rotary needs an even width, got rope={turned}", param="rope")
    return nope or width, turned, value or width


def _init(
    x: TensorType,
    heads: int,
    latent: int,
    causal: bool,
    nope: int | None,
    rope: int | None,
    value: int | None,
    q_latent: int | None,
) -> dict[str, int | bool | None]:
    still, turned, wide = _widths(x, heads, nope, rope, value)
    return {
        "dim": x.dim,
        "heads": heads,
        "latent": latent,
        "causal": causal,
        "nope": still,
        "rope": turned,
        "value": wide,
        "q_latent": q_latent,
    }


def _shape(
    x: TensorType, heads: int, nope: int | None, rope: int | None, value: int | None, **_: object
) -> TensorType:
    _widths(x, heads, nope, rope, value)
    return x


def _cost(
    x: TensorType,
    heads: int,
    latent: int,
    causal: bool,
    nope: int | None,
    rope: int | None,
    value: int | None,
    q_latent: int | None,
) -> Cost:
    still, turned, wide = _widths(x, heads, nope, rope, value)
    t, d, query = x.length, x.dim, heads * (still + turned)
    matrices = d * (latent + turned) + latent * heads * (still + wide) + heads * wide * d
    matrices += d * query if q_latent is None else q_latent * (d + query)
    flops = 2 * t * matrices + 2 * t * t * heads * (still + turned + wide)
    kept = 4 * t * (2 * query + latent + heads * (still + wide))
    state = causal * (4 * t * (latent + turned) + 8)
    return Cost(matrices + latent + (q_latent or 0), flops, kept, state)


OP = Op(
    name="mla",
    module=LatentAttention,
    params={
        "heads": Int(1, 128),
        "latent": Int(1, 65536, log=True),
        "causal": Flag(),
        "nope": Int(1, 4096, log=True, default=None, none=True),
        "rope": Int(2, 4096, log=True, default=None, none=True),
        "value": Int(1, 4096, log=True, default=None, none=True),
        "q_latent": Int(1, 65536, log=True, default=None, none=True),
    },
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(split_heads, masked_softmax, *ROTARY),
    paper="arXiv:2405.04434",
)
