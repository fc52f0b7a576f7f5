"""A process that owns an evaluator and a child that never ends; its parent kills it."""

import os
import sys

from search.evaluate import Evaluator, Job
from tests.search.sources import source


def main() -> None:
    with Evaluator("module:tests.search.small") as evaluator:

        def tell(epoch: int, value: float) -> bool:
            sys.stdout.write(f"{os.getpid()} {evaluator.ready().pid} {evaluator.child}\n")
            sys.stdout.flush()
            return False

        evaluator.run(Job(source(), seed=0, epochs=10**6, lr=1e-3, weight_decay=0.0), tell)


if __name__ == "__main__":
    main()
