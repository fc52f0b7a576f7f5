"""Zero-cost proxies against the tables: does a score before training tell what training gives?

    python -m benchmarks.search.proxies run --kit build/table-kit --out build/proxies --jobs 16
    python -m benchmarks.search.proxies page --out build/proxies

For every task `--n` architectures of the table, drawn once, are built with seed 0 and scored on
the first training batch by each proxy of `search/proxies.py`. Reported: Kendall's tau-b between
score and validation metric after training (mean of two seeds), and how many of the best tenth by
metric are in the best tenth by score. A score of -inf (it does not exist) counts as the lowest.
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import torch

from benchmarks.search.plan import Planned, read_data, read_plan
from benchmarks.search.settings import settings
from benchmarks.search.tabular import RESULTS, read
from einspace.load import load
from search.proxies import PROXIES

SHARE = 0.1


def score(name: str, planned: Planned, kit: Path) -> dict[str, object]:
    """All proxies of one architecture, with the CPU seconds of each."""
    task, data = settings()[name].task, _data(name, kit)
    size = min(task.budget.batch, len(data.train))
    torch.manual_seed(0)
    model = load(planned.source)()
    row: dict[str, object] = {"task": name, "id": planned.id}
    for proxy, measure in PROXIES.items():
        start = time.process_time()
        found = measure(model, data.train.x[:size], data.train.y[:size], task.loss)
        row[proxy] = [found, round(time.process_time() - start, 4)]
    return row


_DATA: dict[str, object] = {}


def _data(name: str, kit: Path):  # type: ignore[no-untyped-def]  # Data, once a process
    if name not in _DATA:
        _DATA[name] = read_data(name, kit)
    return _DATA[name]


def _work(job: tuple[str, Planned, Path]) -> dict[str, object]:
    torch.set_num_threads(1)
    return score(*job)


def run(names: list[str], kit: Path, out: Path, n: int, jobs: int) -> int:
    """Score what is missing, and append it to `<out>/scores.jsonl`."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    out.mkdir(parents=True, exist_ok=True)
    done = {(r["task"], r["id"]) for r in rows(out)}
    items = []
    for name in names:
        planned = read_plan(name, kit)
        drawn = random.Random(0).sample(planned, min(n, len(planned)))
        items += [(name, p, kit) for p in drawn if (name, p.id) not in done]
    context = multiprocessing.get_context("spawn")  # A fork may not run autograd after its parent.
    with (out / "scores.jsonl").open("a", buffering=1) as file, context.Pool(jobs) as pool:
        for row in pool.imap_unordered(_work, items, chunksize=4):
            file.write(json.dumps(row) + "\n")
    return len(items)


def rows(out: Path) -> list[dict[str, list[float]]]:
    """The scored architectures."""
    path = out / "scores.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def recall(scores: list[float], values: list[float]) -> float:
    """The share of the best tenth by value that is in the best tenth by score (ties: as listed)."""
    count = max(1, round(SHARE * len(values)))
    order = range(len(values))
    best = set(sorted(order, key=lambda i: -values[i])[:count])
    chosen = set(sorted(order, key=lambda i: -scores[i])[:count])
    return len(best & chosen) / count


def table(out: Path, results: Path = RESULTS) -> list[dict[str, object]]:
    """One row a task and proxy: tau-b, its p-value, top-10 % recall, median CPU ms."""
    from scipy.stats import kendalltau

    found, everything = [], rows(out)
    for name in dict.fromkeys(str(r["task"]) for r in everything):
        mine, entries = [r for r in everything if r["task"] == name], read(name, results).entries
        mine = [r for r in mine if entries[str(r["id"])].value() is not None]
        values = [float(entries[str(r["id"])].value() or 0.0) for r in mine]
        for proxy in PROXIES:
            scores = [r[proxy][0] for r in mine]
            tau, p = kendalltau(scores, values)
            times = sorted(r[proxy][1] for r in mine)
            found.append(
                {
                    "task": name,
                    "proxy": proxy,
                    "n": len(mine),
                    "tau": round(float(tau), 3),
                    "p": float(p),
                    "recall": round(recall(scores, values), 3),
                    "cpu_ms": round(1e3 * times[len(times) // 2], 1),
                }
            )
    return found


def page(found: list[dict[str, object]]) -> str:
    """A markdown table: tau (recall of the best tenth), a row a proxy, a column a task."""
    tasks = list(dict.fromkeys(str(r["task"]) for r in found))
    by = {(r["proxy"], r["task"]): r for r in found}
    lines = [f"| proxy | {' | '.join(tasks)} | CPU ms |", "|---|" + "---|" * (len(tasks) + 1)]
    for proxy in PROXIES:
        cells = [f"{by[proxy, t]['tau']:+.2f} ({by[proxy, t]['recall']:.2f})" for t in tasks]
        cost = max(float(str(by[proxy, t]["cpu_ms"])) for t in tasks)
        lines.append(f"| {proxy} | {' | '.join(cells)} | {cost:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--kit", type=Path, default=Path("build/table-kit"))
    parser.add_argument("--out", type=Path, default=Path("build/proxies"))
    parser.add_argument("--task", default="all", help="names with commas between")
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    names = list(settings()) if args.task == "all" else args.task.split(",")
    if args.what == "run":
        print(run(names, args.kit, args.out, args.n, args.jobs), "scored")
        return
    found = table(args.out)
    (RESULTS / "proxies.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
