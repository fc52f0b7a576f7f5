"""Which tensors the Triton kernels serve; everything else takes the PyTorch reference."""

import torch
from torch import Tensor

try:
    import triton
except ImportError:  # no wheel for this platform: the references serve
    triton = None


def on_triton(*tensors: Tensor) -> bool:
    """Whether all are on a CUDA device, of 16 or 32 bits, and triton is installed."""
    served = (torch.bfloat16, torch.float16, torch.float32)
    return triton is not None and all(t.is_cuda and t.dtype in served for t in tensors)
