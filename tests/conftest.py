"""Settings of the suite: one thread for torch; without a GPU, Triton interprets its kernels."""

import os

import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel's module is imported
