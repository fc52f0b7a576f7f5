"""CPU seconds a trial costs besides its training, in a real search with tracking.

    python -m benchmarks.overhead [--trials 20] [--workers 1] [--space vision] [--task digits]

Two searches through the command itself, of 1 and of 1 + N trials, in runs folders of their own. CPU
seconds are those of the command and all its processes (user + system, `wait4`). A trial's training
is its own `cpu_seconds`, from before its first step to after its last evaluation. Then

    start-up = CPU(1 trial) - training          overhead = (CPU(1 + N) - training - start-up) / N

Start-up thus holds imports, the database's schema and one trial's overhead.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def measured(space: str, task: str, trials: int, workers: int) -> tuple[float, float, int]:
    """CPU seconds in all, those of training, and the trials that ended."""
    words = [space, "--task", task, "--trials", str(trials), "--workers", str(workers)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as runs:
        environment = {**os.environ, "EINSPACE_RUNS": runs, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "cli.py"), "search", *words]
        subprocess.run(
            [*command, "--epochs", "1", "--study", "overhead", "--json"],
            check=True,
            stdout=subprocess.PIPE,
            env=environment,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        training, ended = _training(Path(runs) / "overhead" / "journal.log")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, training, ended


def _training(journal: Path) -> tuple[float, int]:
    """The `cpu_seconds` of the trials, from the study's own journal, and how many there are."""
    spent = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        attrs = json.loads(line).get("user_attr", {})
        if "nas.metrics" in attrs:
            spent.append(float(attrs["nas.metrics"].get("cpu_seconds", 0.0)))
    return sum(spent), len(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--space", default="vision")
    parser.add_argument("--task", default="digits")
    args = parser.parse_args()
    # One worker a search of one trial: the start-up of a second one is measured by the second run.
    first, trained, _ = measured(args.space, args.task, 1, 1)
    start = first - trained
    cpu, training, ended = measured(args.space, args.task, 1 + args.trials, args.workers)
    rest = cpu - training
    print(f"{args.space} on {args.task}, {ended} trials, {args.workers} workers, CPU seconds")
    print(f"in all {cpu:.1f}, training {training:.1f}, start-up of one worker {start:.1f}")
    print(f"all but training, a trial: {(rest - start) / (ended - 1):.3f}")
    print(f"start-up included: {rest / ended:.3f}")


if __name__ == "__main__":
    main()
