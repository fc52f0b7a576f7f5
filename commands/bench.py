"""Benchmarks of the repository, by a short name."""

from typing import Annotated

import typer

MODULES = {
    "kernels": "benchmarks.kernels.harness",
    "compile": "benchmarks.compile",
    "sample": "benchmarks.sample",
    "search": "benchmarks.search.cost",
}


def bench(
    what: Annotated[str, typer.Argument(help=", ".join(MODULES))],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="options of the benchmark, after --")
    ] = None,
) -> None:
    """Measure on this machine; `bench WHAT -- --help` tells what a benchmark takes."""
    import importlib.util
    import subprocess
    import sys

    from grammar.errors import StudyError, did_you_mean

    if what not in MODULES:
        known = did_you_mean(what, MODULES) or f"there are {', '.join(MODULES)}"
        raise StudyError(f"there is no benchmark {what[:40]!r}", hint=known)
    if importlib.util.find_spec("benchmarks") is None:
        raise StudyError("the benchmarks are not installed", hint="run this in the repository")
    if what == "kernels" and "--help" not in (arguments or ()):
        import torch  # seconds to import

        if not torch.cuda.is_available():
            raise StudyError(
                "bench kernels needs a CUDA device, and torch finds none",
                hint="on a CPU the kernels only run under Triton's interpreter, in the tests",
            )
    command = [sys.executable, "-u", "-m", MODULES[what], *(arguments or ())]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
