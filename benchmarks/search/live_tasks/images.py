"""MNIST-5k as its table has it, out of the carried kit; half of the test part joins validation."""

from dataclasses import replace

from benchmarks.search.live import carried
from benchmarks.search.settings import settings
from search.task import Budget

TASK = replace(
    settings()["mnist5k"].task,
    name="images",
    budget=Budget(epochs=5, batch=50, max_params=500_000, max_flops=4_000_000),
    load=carried("images"),
)
