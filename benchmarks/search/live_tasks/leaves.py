"""OSULeaf out of the carried kit, 12 epochs; most of the test part joins validation."""

from dataclasses import replace

from benchmarks.search.live import carried
from search.task import Budget
from search.tasks import find

TASK = replace(
    find("osuleaf"),
    name="leaves",
    budget=Budget(epochs=12, batch=16, max_params=200_000, max_flops=8_000_000),
    load=carried("leaves"),
)
