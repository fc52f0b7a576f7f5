"""A short task for these tests: digits with 20 steps an epoch."""

from dataclasses import replace

from search.tasks.digits import TASK as DIGITS

TASK = replace(
    DIGITS, name="small", steps_per_epoch=20, budget=replace(DIGITS.budget, min_epochs=1)
)
