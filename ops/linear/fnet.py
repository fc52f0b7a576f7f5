"""Fourier mixing: the real part of a discrete Fourier transform over tokens and channels.

    y = Re(F_T x F_D),   F_N[m, n] = e^{-2 pi i m n / N}, not normalised

Not causal; no parameters. Shapes: x [B, T, D] -> [B, T, D]. Mask: x = 0 at padding; the length T
of the transform counts padding, so that more of it changes the result.
Cost: no matrix products (O(T D log(T D)) in the transform). fp32 inside (float64 for float64).
Paper: Lee-Thorp et al. 2021, "FNet", arXiv:2105.03824, eq. 3.
"""

import torch
from torch import Tensor, nn

from ops.kernels.mixing import blank
from ops.spec import Cost, Op, TensorType, need


class FourierMixer(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        wide = blank(x, mask).to(torch.promote_types(x.dtype, torch.float32))
        y: Tensor = torch.fft.fft2(wide, dim=(-2, -1)).real.to(x.dtype)
        return y


def _shape(x: TensorType) -> TensorType:
    need(x, "seq")
    return x


OP = Op(
    name="fnet",
    module=FourierMixer,
    shape=_shape,
    init=lambda x: {},
    cost=lambda x: Cost(0, 0, 0),
    causal=False,
    mask="use",
    uses=(blank,),
    paper="arXiv:2105.03824",
)
