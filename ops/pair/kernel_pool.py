"""Kernel pooling: how many matches of each strength a query has, counted softly by Gaussians.

    K_k(i) = sum_j exp(-(M_ij - mu_k)^2 / (2 sigma_k^2)),   y_k = sum_i log(1 + K_k(i))
    mu_k = 1/(K-1) + 2k/(K-1) - 1, k = 0..K-1, the last one cut to 1 with sigma = `exact`

Shapes: image [B, 1, L, R] -> vec [B, K]; [B, 2, L, R] when `match` had padding: channel 2 tells the
real pairs, the others add nothing (a padded row gives log 1 = 0). Not causal. No parameters, no
matmul.
Paper: Xiong et al. 2017, "K-NRM", arXiv:1706.06613, eq. 4-7; log(1 + K) in place of log max(K,
1e-10) as in MatchZoo, whose lack of a mask is not copied.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float, Int
from ops.spec import Mismatch, Op, TensorType, need, no_cost, vec


class KernelPool(nn.Module):
    def __init__(self, kernels: int, sigma: float, exact: float) -> None:
        super().__init__()
        self.kernels, self.sigma, self.exact = kernels, sigma, exact

    def bells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma [K] on the device and in the dtype of `like`."""
        step = 1 / max(1, self.kernels - 1)
        order = torch.arange(self.kernels, dtype=like.dtype, device=like.device)
        mu = (order * (2 * step) + (step - 1)).clamp_max(1.0)
        return mu, F.pad(torch.full_like(mu[1:], self.sigma), (0, 1), value=self.exact)

    def forward(self, x: Tensor) -> Tensor:
        mu, sigma = (z[:, None, None] for z in self.bells(x))
        near = torch.exp(-0.5 * ((x[:, :1] - mu) / sigma).square())
        if x.shape[1] == 2:
            near = near * (x[:, 1:] > 0)
        return near.sum(-1).log1p().sum(-1)


def need_pairs(x: TensorType) -> None:
    """Raises: Mismatch unless x is what `match` gives of scores: 1 channel, 2 with padding."""
    need(x, "image")
    if x.dim > 2:
        raise Mismatch(f"needs one score a pair, got {x}", hint="use match(kind=cos) or kind=dot")


def _shape(x: TensorType, kernels: int, sigma: float, exact: float) -> TensorType:
    need_pairs(x)
    return vec(kernels)


OP = Op(
    name="kernel_pool",
    module=KernelPool,
    params={
        "kernels": Int(1, 1024, log=True, default=11),
        "sigma": Float(1e-4, 10.0, log=True, default=0.1),
        "exact": Float(1e-6, 10.0, log=True, default=1e-3),
    },
    shape=_shape,
    init=lambda x, **params: params,
    cost=no_cost,
    causal=False,
    paper="arXiv:1706.06613",
)
