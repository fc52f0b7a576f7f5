"""What `einspace space` tells: rules, radii, numbers of derivations and architectures, ranges."""

import math

from einspace.draws import drawn_limits, sums_of
from einspace.frame import Frame
from grammar.derive import GaveUp, derivations
from grammar.estimate import Estimate
from grammar.normal import text_of
from grammar.walk import First, Limits

ENUMERATED = 2_000  # derivations up to which distinct architectures are counted


def space_report(frame: Frame) -> dict[str, object]:
    """The facts of a space under its task and budget, as JSON shows them.

    `entropy` is in nats; `error` the standard error of the mass relative to the mass, of estimates;
    `architectures` None where there are too many to enumerate. Raises: SpaceError.
    """
    sums, checked = sums_of(frame), frame.checked
    limits = drawn_limits(frame)
    counts, ranges = sums.counts(), sums.ranges()
    total = sum(counts.values())
    report: dict[str, object] = {
        "kind": sums.kind,
        "rules": len(checked.rules),
        "proper": checked.proper,
        "radius": checked.radius,
        "materialised_radius": checked.materialised,
        "max_nodes": limits.nodes if limits.nodes < Limits().nodes else None,
        "counts": {str(n): str(count) for n, count in counts.items()},
        "derivations": str(total),
        "architectures": None,
        "log_mass": sums.log_mass(),
        "entropy": sums.entropy(),
        "params_range": list(ranges.params),
        "flops_range": list(ranges.flops),
    }
    if isinstance(sums, Estimate):
        error = sums.error()
        report["error"] = error if math.isfinite(error) else None
    elif total <= ENUMERATED:
        report["architectures"] = architectures(frame)
    return report


def architectures(frame: Frame) -> int | None:
    """The number of distinct ids, by enumeration; None where the walk meets too many refusals."""
    found = set()
    try:
        for item in derivations(frame.space, First(), frame.typing, drawn_limits(frame)):
            found.add(text_of(item.closed, frame.typing.signatures)[1])
    except GaveUp:
        return None
    return len(found)


def lines(report: dict[str, object]) -> list[str]:
    """The report for people."""
    counts, kind = report["counts"], report["kind"]
    assert isinstance(counts, dict)
    told = [
        f"{report['rules']} rules, radius {report['radius']:.3f}, with copies counted "
        f"{report['materialised_radius']:.3f}",
        f"{_short(str(report['derivations']))} derivations ({kind})",
    ]
    if report["max_nodes"] is not None:
        told.append(f"of at most {report['max_nodes']} nodes")
    if report["architectures"] is not None:
        told.append(f"{report['architectures']} distinct architectures (exact)")
    log_mass = report["log_mass"]
    assert isinstance(log_mass, float)
    spread = f" +- {100 * float(str(report['error'])):.2g} %" if report.get("error") else ""
    told.append(f"{100 * math.exp(log_mass):.3g} % of the grammar fits{spread} ({kind})")
    told.append(f"entropy {report['entropy']:.2f} nats ({kind})")
    for name in ("params", "flops"):
        found = report[f"{name}_range"]
        assert isinstance(found, list)
        told.append(f"{name} from {found[0]:,} to {found[1]:,} ({kind})")
    told += [f"{n:>8} nodes  {_short(count)}" for n, count in counts.items()]
    return told


def _short(count: str) -> str:
    return count if len(count) < 16 else f"{count[0]}.{count[1:4]}e{len(count) - 1}"
