"""A grammar learned on one task, used on another: does what a search learned carry over?

    python -m benchmarks.search.transfer [--seeds 20]

On task A an evolution of 60 trials runs on A's table; the best fifth of its trials teaches the
weights of the space (`grammar/learn.py`, strength 1). Then 40 architectures are drawn for task B
from the learned and from the untouched space and looked up in B's table. A and B share one space:
MQAR and MAD's in-context recall. Reported: mean of all draws, best of 40, paired by seed, with the
two-sided Wilcoxon signed-rank test.
"""

import argparse
import json
import math
import random
import statistics

from benchmarks.search.compare import searched, value_of
from benchmarks.search.settings import settings
from benchmarks.search.tabular import RESULTS, Table, read
from einspace.candidates import Frame, frame, sample
from grammar.learn import counted, fit, sites, summed, tamed, weighted
from grammar.show import show
from search.strategies.evolution import Evolution

PAIRS = (("mqar", "mad_recall"), ("mad_recall", "mqar"))
TRIALS, TOP, DRAWS = 60, 0.2, 40


def taught(place: Frame, table: Table, seed: int) -> str:
    """The text of the space with the weights of the elite of one evolution."""
    rows = searched(place, table, Evolution(), seed, TRIALS)
    done = [r for r in rows if r.value is not None]
    done.sort(key=lambda r: (-(r.value or 0.0), r.number))
    known = sites(place.space, place.typing.signatures)
    tables = [counted(known, r.trace, place.typing) for r in done[: math.ceil(TOP * len(done))]]
    weights, _ = tamed(known, fit(known, summed(tables, len(known.own)), []).weights)
    return show(weighted(known, weights))


def drawn(place: Frame, table: Table, seed: int) -> list[float]:
    """The values of `DRAWS` independent draws; one that was never trained is left out."""
    rng = random.Random(f"transfer/{seed}")
    values = [value_of(table, sample(place, rng).hash) for _ in range(DRAWS)]
    return [v for v in values if v is not None]


def main() -> None:
    from scipy.stats import wilcoxon

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    found = []
    for first, second in PAIRS:
        a, b = settings()[first], settings()[second]
        place, target = (frame(str(s.space), s.task.interface) for s in (a, b))
        tables = read(first), read(second)
        rows = []
        for seed in range(args.seeds):
            learned = frame(taught(place, tables[0], seed), b.task.interface)
            rows.append((drawn(learned, tables[1], seed), drawn(target, tables[1], seed)))
        for what, take in (("mean of 40 draws", statistics.fmean), ("best of 40 draws", max)):
            new, old = ([take(r[i]) for r in rows] for i in (0, 1))
            p = wilcoxon(new, old).pvalue if new != old else 1.0
            row = {
                "from": first,
                "to": second,
                "what": what,
                "learned": round(statistics.fmean(new), 4),
                "untouched": round(statistics.fmean(old), 4),
                "better": sum(x > y for x, y in zip(new, old, strict=True)),
                "seeds": args.seeds,
                "p": float(f"{p:.2g}"),
            }
            found.append(row)
            print(json.dumps(row), flush=True)
    (RESULTS / "transfer.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
