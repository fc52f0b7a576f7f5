"""The chunked memory of Titans: weights that learn k -> v while the sequence is read.

    u_t = grad_W |M_{t'}(k_t) - v_t|^2,  t' = t - t mod C     (at the chunk's first weights)
    S_t = eta_t S_{t-1} - theta_t u_t,   W_t = (1 - alpha_t) W_{t-1} + S_t,   y_t = M_t(q_t)

M(k) = k W, or act(k W_1) W_2. The gradient of a layer is an outer product a_j (x) delta_j, so with

    E_ij = prod_{r=j+1..i} eta_r,  P_ij = sum_{p=j..i} prod_{r=p+1..i} (1 - alpha_r) E_pj   (i >= j)
    beta_i = prod (1 - alpha),  m_i = prod eta,  f_i = (1 - alpha_i) f_{i-1} + m_i

a layer's product with a row z at token i is beta_i z W + f_i z S - sum_j P_ij theta_j (z . a_j)
delta_j, and W, S of the chunk's end are one matmul each. P and f are products of two tables of
range products, of all chunks at once.
Shapes: q, k, v [B, H, T, K]; alpha, eta, theta [B, H, T]; W_l, S_l [B, H, in, out]. fp32 inside.
Paper: Behrouz et al. 2025, "Titans", arXiv:2501.00663, eq. 10-18, appendix C.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def memory_slope(z: Tensor, act: str) -> Tensor:
    """The derivative of silu or (exact) gelu."""
    if act == "silu":
        s = z.sigmoid()
        return s * (1 + z * (1 - s))
    normal = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    return normal + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def memory_read(q: Tensor, weights: list[Tensor], act: str) -> Tensor:
    """M(q), without an update."""
    if len(weights) == 1:
        return q @ weights[0]
    hidden = q @ weights[0]
    return (F.silu(hidden) if act == "silu" else F.gelu(hidden)) @ weights[1]


def memory_surprise(
    k: Tensor, v: Tensor, weights: list[Tensor], act: str
) -> tuple[list[Tensor], list[Tensor]]:
    """a and delta of every layer: the gradient of token j is a_j (x) delta_j."""
    if len(weights) == 1:
        return [k], [2 * (k @ weights[0] - v)]
    z = k @ weights[0]
    a = F.silu(z) if act == "silu" else F.gelu(z)
    error = 2 * (a @ weights[1] - v)
    return [k, a], [(error @ weights[1].mT) * memory_slope(z, act), error]


def range_products(x: Tensor) -> Tensor:
    """[..., C] -> [..., C, C]: the product of x over j < r <= i at (i, j); 0 where j > i.

    In log2 C steps, without division or logarithm, so that a factor 0 is safe. The gradient of
    torch.cumprod waits for the device to ask whether there are zeros: no graph could hold it.
    """
    size = x.shape[-1]
    below = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    table = torch.where(below.tril(-1), x[..., :, None], 1.0)
    shift = 1
    while shift < size:
        grown = table[..., shift:, :] * table[..., :-shift, :]
        table = torch.cat([table[..., :shift, :], grown], -2)
        shift *= 2
    return table * below


def memory_gates(alpha: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """[beta f P] and [m E] of every token of a chunk: [..., C] -> [..., C, 2 + C], [..., C, 1 + C].

    A column each for the weights and the momentum that enter the chunk and for the C gradients.
    """
    kept, run = (range_products(F.pad(g, (1, 0)))[..., 1:, :] for g in (1 - alpha, eta))
    return torch.cat([kept[..., :1], kept[..., 1:] @ run], -1), run


def memory_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: tuple[Tensor, Tensor, Tensor],
    state: tuple[list[Tensor], list[Tensor]],
    chunk: int,
    act: str,
) -> tuple[Tensor, tuple[list[Tensor], list[Tensor]]]:
    """y [B, H, T, K] and the weights and momenta after the last token; gates: alpha, eta, theta."""
    length, (weights, momenta) = q.shape[2], state
    rows, size = [], min(chunk, length)
    parts = zip(*(torch.split(z.contiguous(), size, 2) for z in (q, k, v)), strict=True)
    alpha, eta, theta = (
        torch.unflatten(F.pad(g, (0, -length % size)), -1, (-1, size)) for g in gates
    )
    table, run = memory_gates(alpha, eta)
    pull = torch.cat([table[..., :2], table[..., 2:] * theta[..., None, :]], -1)
    push = torch.cat([run[..., :1], run[..., 1:] * theta[..., None, :]], -1)
    for n, (z, key, value) in enumerate(parts):
        count = z.shape[2]
        widths = [1, 1, count]
        beta, f, p = torch.split(pull[:, :, n, :count, : 2 + count], widths, -1)
        ends = torch.split(pull[:, :, n, count - 1, : 2 + count, None], widths, -2)
        m, e = torch.split(push[:, :, n, count - 1, : 1 + count, None], widths[1:], -2)
        a, delta = memory_surprise(key, value, weights, act)
        for layer, (w, s) in enumerate(zip(weights, momenta, strict=True)):
            if layer:
                z = F.silu(z) if act == "silu" else F.gelu(z)
            past = beta * (z @ w) + f * (z @ s)
            z = past - ((z @ a[layer].mT) * p) @ delta[layer]
        rows.append(z)
        sides = list(zip(weights, momenta, a, delta, strict=True))
        weights = [ends[0] * w + ends[1] * s - (ends[2] * x).mT @ d for w, s, x, d in sides]
        momenta = [m * s - (e * x).mT @ d for _, s, x, d in sides]
    return torch.cat(rows, 2), (weights, momenta)


def memory_flops(length: int, heads: int, width: int, hidden: int | None, chunk: int) -> int:
    """What `memory_scan` multiplies for one sequence; `hidden` None: one layer."""
    size = min(chunk, length)
    total = -(-length // size) * 2 * size * size * (size + 1)  # P and f
    for at in range(0, length, chunk):
        c = min(chunk, length - at)
        if hidden is None:
            total += 10 * c * width * width + 4 * c * c * width
        else:
            total += 22 * c * width * hidden + 4 * c * c * (width + hidden)
    return heads * total


MEMORY = (
    memory_slope,
    memory_read,
    memory_surprise,
    range_products,
    memory_gates,
    memory_scan,
)
