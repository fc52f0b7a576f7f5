"""What the fusion passes gain: the captured step of files written with them and without.

    python -m benchmarks.turnaround.fusion --prepare build/fusion     (where lark is)
    python -m benchmarks.turnaround.fusion --from build/fusion        (on a GPU)

Both files hold the same ops and kernels; only the graph that is written differs. Steps in ms, the
median of groups of ten; the two are timed in turns, twice.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.turnaround.methods import (
    DECAY,
    build,
    feed_of,
    interface_of,
    rates,
    rows_of,
    step_seconds,
)
from search.capture import Captured

ROWS = [("small", "rope"), ("small", "gpt"), ("middle", "rope"), ("large", "rope")]


def prepare(folder: Path) -> None:
    """Write the files of all rows, both ways."""
    from benchmarks.turnaround.texts import texts
    from einspace.compile import compile_text
    from einspace.emit import emit
    from einspace.optable import table

    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for key in ROWS:
        found = compile_text(texts()[key], interface_of(key[0]))
        plain = emit(table(), found.graph, found.text, found.hash, found.totals)
        assert plain != found.source
        made["/".join(key)] = {"fused": found.source, "plain": plain}
    (folder / "fusion.json").write_text(json.dumps(made), encoding="utf-8")


def step(size: str, source: str, device: torch.device) -> float:
    """Milliseconds of a captured step."""
    model = build(source, device, kernels=True)
    feed = feed_of(size, rows_of(size, device), device, kernels=True)
    engine = Captured(model, feed, rates(), weight_decay=DECAY, device=device, unroll=1)

    def run(count: int) -> None:
        engine.place.zero_()
        engine.replay(count)

    found = step_seconds(run)
    engine.release()
    return 1e3 * found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("--from", type=Path, dest="folder")
    arguments = parser.parse_args()
    if arguments.prepare is not None:
        prepare(arguments.prepare)
        return
    made = json.loads((arguments.folder / "fusion.json").read_text(encoding="utf-8"))
    device = torch.device("cuda")
    for key in ROWS:
        found = made["/".join(key)]
        times = {way: [step(key[0], found[way], device)] for way in ("plain", "fused")}
        for way in ("plain", "fused"):
            times[way].append(step(key[0], found[way], device))
        plain, fused = min(times["plain"]), min(times["fused"])
        print(
            f"{'/'.join(key):<14} plain {plain:.3f} ms  fused {fused:.3f} ms  "
            f"{plain / fused:.3f}x  {times}",
            flush=True,
        )


if __name__ == "__main__":
    main()
