"""The live display of a search: a trial table, the best so far, the time left.

On a terminal it redraws in place; when piped it prints one line for each new best and one at the
end, so that logs stay short.
"""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from einspace.result import SearchRecord, TrialRecord

ROWS = 12


def _cell(trial: TrialRecord, costs: Sequence[str]) -> tuple[str, ...]:
    value = "" if trial.value is None else f"{trial.value:.4f}"
    params = f"{int(trial.metrics.get('params', 0)):,}" if trial.metrics.get("params") else ""
    epochs = str(int(trial.metrics["epochs"])) if "epochs" in trial.metrics else ""
    seconds = f"{trial.seconds:.0f}" if trial.seconds else ""
    more = [f"{trial.metrics[c]:.4g}" if c in trial.metrics else "" for c in costs]
    return (str(trial.number), trial.status, value, *more, epochs, params, seconds, trial.origin)


def trial_table(
    trials: tuple[TrialRecord, ...], metric: str, objectives: Sequence[str] = ()
) -> Table:
    """Trials as a table; the text is cut to the width of the terminal, never interpreted."""
    costs = [name for name in objectives[1:] if name != "params"]
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("trial", "status", metric, *costs, "epochs", "params", "s", "origin"):
        left = name in ("status", "origin")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    table.add_column("architecture", no_wrap=True, overflow="ellipsis", ratio=1)
    for trial in trials:
        table.add_row(*(Text(c) for c in (*_cell(trial, costs), trial.text)))
    return table


class Display:
    """Shows a search as it runs; call it with each new record."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.console = Console(stderr=True)
        self.started = time.monotonic()
        self.done_before: int | None = None
        self.best: float | None = None
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.moving = self.console.is_terminal and not quiet

    def __enter__(self) -> "Display":
        if self.moving:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.moving:
            self.live.stop()

    def __call__(self, record: SearchRecord) -> None:
        done = [t for t in record.trials if t.status not in ("running", "waiting")]
        if self.done_before is None:
            self.done_before = len(done)
        if self.moving:
            self.live.update(
                Group(
                    self._line(record, len(done)),
                    trial_table(record.trials[-ROWS:], record.metric, record.objectives),
                )
            )
            return
        best = record.best()
        if best is not None and best.value != self.best and not self.quiet:
            self.best = best.value
            self.console.print(
                f"trial {best.number}: {record.metric} {best.value:.4f} "
                f"({len(done)}/{self.total} trials, {time.monotonic() - self.started:.0f} s)",
                highlight=False,
            )

    def _line(self, record: SearchRecord, done: int) -> Text:
        seconds = time.monotonic() - self.started
        fresh = done - (self.done_before or 0)
        left = f", about {seconds / fresh * (self.total - done):.0f} s left" if fresh else ""
        best = record.best()
        value = f", best {record.metric} {best.value:.4f} (trial {best.number})" if best else ""
        if record.objectives:
            value += f", {len(record.front())} on the front"
        return Text(f"{record.study}: {done}/{self.total} trials in {seconds:.0f} s{left}{value}")
