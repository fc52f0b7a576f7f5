"""A search in a few words: counts, the best trial, the final training; as JSON and as lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from einspace.result import SearchRecord


def summary(record: SearchRecord, run_ids: Mapping[int, str]) -> dict[str, Any]:
    """What `best --json` prints; `run_ids` are the tracker's, by trial number."""
    found = record.best()
    best = None
    if found is not None:
        best = {
            "text": found.text,
            "value": found.value,
            "metrics": {**found.params, **found.metrics},
            "run_id": run_ids.get(found.number),
            "hash": found.hash,
            "trial": found.number,
        }
    facts = {
        "study": record.study,
        "trials": len(record.trials),
        "status": record.counts(),
        "best": best,
        "final": dict(record.final) or None,
    }
    if record.objectives:
        facts["objectives"] = list(record.objectives)
        facts["front"] = [
            {
                "trial": t.number,
                "hash": t.hash,
                "values": dict(zip(record.objectives, t.values, strict=True)),
                "run_id": run_ids.get(t.number),
                "text": t.text,
            }
            for t in record.front()
        ]
    return facts


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """A `summary` for people."""
    counts = ", ".join(f"{n} {status}" for status, n in sorted(facts["status"].items()))
    yield f"study {facts['study']}: {facts['trials']} trials ({counts})"
    if (best := facts["best"]) is not None:
        yield f"best validation {best['value']:.4f} (trial {best['trial']}, id {best['hash']})"
        yield best["text"]
    if front := facts.get("front"):
        yield f"Pareto front of {', '.join(facts['objectives'])}: {len(front)} trials"
        for row in front:
            values = "  ".join(f"{k} {v:.6g}" for k, v in row["values"].items())
            yield f"  trial {row['trial']}  {values}  id {row['hash']}"
    if (final := facts["final"]) is not None:
        yield (
            f"test {final['metric']} {final['mean']:.4f} +- {final['deviation']:.4f} "
            f"({len(final['seeds'])} seeds, {final['epochs']} epochs, train + validation)"
        )
