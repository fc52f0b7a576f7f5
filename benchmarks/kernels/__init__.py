"""Kernels of `ops/kernels` beside their peers, on a GPU."""
