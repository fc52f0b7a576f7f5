"""The report of a study: one HTML page with tables and plots, nothing to download."""

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from einspace.optable import table
from einspace.result import SearchRecord, TrialRecord
from registry.artifacts import trial_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;"
    "text-align:left;vertical-align:top}code{font-size:.85em;word-break:break-word}img{max-width:100%}"
    ".drawing{overflow:auto;max-height:40em}"
)


def _picture(draw: "Callable[[Axes], None]", width: float = 6.4) -> str:
    """A plot as an inline PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    draw(figure.add_subplot())
    data = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(data, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def pareto(trials: Sequence[TrialRecord], *, maximise: bool) -> list[TrialRecord]:
    """Trials that no other beats in both value and parameters, by parameters."""
    rows = [t for t in trials if t.value is not None and "params" in t.metrics]
    sign = -1.0 if maximise else 1.0
    rows.sort(key=lambda t: (t.metrics["params"], sign * (t.value or 0.0)))
    front: list[TrialRecord] = []
    for trial in rows:
        if not front or sign * (trial.value or 0.0) < sign * (front[-1].value or 0.0):
            front.append(trial)
    return front


def ops_used(trials: Sequence[TrialRecord]) -> Counter[str]:
    """In how many of the trials each op stands."""
    known = table().keys()
    found: Counter[str] = Counter()
    for trial in trials:
        found.update(known & set(re.findall(r"(?<![\w@.])[a-z_]\w*(?!\w*=)", trial.text)))
    return found


def report_page(record: SearchRecord) -> str:
    """The page, also for a study without a finished trial. All user text is escaped."""
    done = [t for t in record.trials if t.status == "ok" and t.value is not None]
    best = record.best()
    parts = [
        f"<h1>{html.escape(record.study)}</h1>",
        f"<p>Space <b>{html.escape(record.space)}</b>, task <b>{html.escape(record.task)}</b>, "
        f"{record.direction} {html.escape(record.metric)}; {len(record.trials)} trials: "
        f"{html.escape(', '.join(f'{n} {s}' for s, n in sorted(record.counts().items())))}.</p>",
    ]
    if best is None:
        parts.append("<p>No trial has finished yet.</p>")
    else:
        parts.append(
            f"<h2>Best: {best.value:.4f} (trial {best.number})</h2>"
            f"<p><code>{html.escape(best.text)}</code></p>"
            f"<p>Export it: <code>einspace export {html.escape(record.study)} -o DIR</code></p>"
        )
        picture = trial_files(best, record.task_interface).get("graph.svg", "")
        parts.append(f'<div class="drawing">{picture}</div>')
        parts.append(_plots(record, done))
        if record.objectives:
            parts.append(_front(record, done))
    if record.final:
        rows = "".join(
            f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>"
            for k, v in record.final.items()
        )
        parts.append(f"<h2>Final training</h2><table>{rows}</table>")
    parts.append(_table(record))
    tags = "".join(
        f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in sorted(record.tags.items())
    )
    parts.append(f"<h2>How it was run</h2><table>{tags}</table>")
    parts.append(f"<h2>Space</h2><pre>{html.escape(record.space_text)}</pre>")
    title = html.escape(record.study)
    head = f"<!doctype html><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return head + "\n".join(parts)


def _plots(record: SearchRecord, done: Sequence[TrialRecord]) -> str:
    maximise = record.direction == "maximize"
    better = max if maximise else min
    values = [t.value for t in done if t.value is not None]
    so_far = [better(values[: i + 1]) for i in range(len(values))]
    front = pareto(done, maximise=maximise)
    counts = ops_used(sorted(done, key=lambda t: t.value or 0.0, reverse=maximise)[:10])
    names = counts.most_common(15)[::-1]

    def course(axes: "Axes") -> None:
        axes.plot([t.number for t in done], values, ".", color="#999999", label="trial")
        axes.step([t.number for t in done], so_far, where="post", label="best so far")
        axes.set(xlabel="trial", ylabel=record.metric)
        axes.legend()

    def trade(axes: "Axes") -> None:
        axes.plot([t.metrics.get("params", 0) for t in done], values, ".", color="#999999")
        axes.plot([t.metrics["params"] for t in front], [t.value or 0.0 for t in front], "o-")
        axes.set(xlabel="parameters", ylabel=record.metric, xscale="log")

    def names_used(axes: "Axes") -> None:
        axes.barh([w for w, _ in names], [n for _, n in names])
        axes.set(xlabel="of the ten best trials")

    between = "" if record.objectives else f"<h2>Pareto front</h2>{_picture(trade)}"
    return (
        f"<h2>Best so far</h2>{_picture(course)}{between}"
        f"<h2>Ops of the best</h2>{_picture(names_used)}"
    )


def _front(record: SearchRecord, done: Sequence[TrialRecord]) -> str:
    """The front of all objectives: a plot of the metric against each cost, and its members."""
    front = record.front()

    def against(axis: int) -> "Callable[[Axes], None]":
        def draw(axes: "Axes") -> None:
            for trials, style, label in ((done, ".", "trial"), (front, "o", "on the front")):
                rows = [t.values for t in trials if t.values]
                axes.plot([v[axis] for v in rows], [v[0] for v in rows], style, label=label)
            costs = [t.values[axis] for t in done if t.values]
            scale = "log" if min(costs, default=0.0) > 0 else "linear"
            axes.set(xlabel=record.objectives[axis], ylabel=record.metric, xscale=scale)
            axes.legend()

        return draw

    plots = "".join(_picture(against(axis)) for axis in range(1, len(record.objectives)))
    head = "".join(f"<th>{html.escape(n)}</th>" for n in ("trial", *record.objectives, "id"))
    body = "".join(
        f"<tr><td>{t.number}</td>{''.join(f'<td>{v:.6g}</td>' for v in t.values)}"
        f"<td><code>{html.escape(t.hash)}</code></td></tr>"
        for t in front
    )
    names = html.escape(", ".join(record.objectives))
    return (
        f"<h2>Pareto front of {names}: {len(front)} trials</h2>{plots}"
        f"<table><tr>{head}</tr>{body}</table>"
    )


def _table(record: SearchRecord) -> str:
    rows = []
    for t in record.trials:
        value = "" if t.value is None else f"{t.value:.4f}"
        rows.append(
            f"<tr><td>{t.number}</td><td>{t.status}</td><td>{value}</td>"
            f"<td>{t.metrics.get('params', 0):,.0f}</td><td>{t.seconds:.1f}</td>"
            f"<td>{html.escape(t.origin)}</td><td><code>{html.escape(t.text)}</code></td></tr>"
        )
    names = ("trial", "status", record.metric, "parameters", "s", "origin", "architecture")
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    return f"<h2>Trials</h2><table><tr>{head}</tr>{''.join(rows)}</table>"
