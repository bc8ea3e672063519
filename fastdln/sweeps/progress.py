"""Progress display of a sweep: a live bar on a terminal, plain lines elsewhere, or nothing."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastdln.sweeps.grid import Cell

# Seconds between lines where there is no terminal, so that logs stay readable.
LINE_EVERY = 30.0


def duration(seconds: float) -> str:
    """Return a duration as text, in its largest suitable unit."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class Tally:
    """Progress of a sweep, measured by work and not by cells, whose costs differ by 10⁵ and more.

    Parameters
    ----------
    costs : mapping of Cell to float
        Work of every cell still to do, in any unit.
    steps : int
        Steps of a cell, for the finished fraction of a running cell.
    finished : int
        Cells already done at the start.
    """

    def __init__(self, costs: Mapping[Cell, float], steps: int, finished: int = 0):
        self.costs = costs
        self.steps = max(steps, 1)
        self.cells = finished + len(costs)
        self.finished = finished
        self._finished_at_start = finished
        self._total = sum(costs.values()) or 1.0
        self._finished_work = 0.0  # work of finished cells, as if none had stopped early
        self._executed_work = 0.0  # work of finished cells up to their last step
        self._running_work = 0.0
        self._start = time.monotonic()
        self.running: dict[Cell, float] = {}

    def finish(self, cell: Cell, steps_taken: int) -> None:
        """Count a cell as done after `steps_taken` steps."""
        self.finished += 1
        self._finished_work += self.costs[cell]
        self._executed_work += self.costs[cell] * steps_taken / self.steps

    def watch(self, running: Mapping[Cell, int]) -> None:
        """Update the step that each running cell has reached."""
        # Copy first: other threads add and remove cells meanwhile.
        self.running = {cell: step / self.steps for cell, step in dict(running).items()}
        self._running_work = sum(self.costs[cell] * part for cell, part in self.running.items())

    @property
    def fraction(self) -> float:
        """Fraction of the work that is done, 0 to 1."""
        if self.finished == self.cells:
            return 1.0
        return min((self._finished_work + self._running_work) / self._total, 1.0)

    def remaining(self) -> float | None:
        """Return an upper estimate of the seconds left: speed so far, no further early stop.

        Cells that stopped early count with the steps they took. Counted in full they would make
        the estimate far too low: the deepest cells run first and are the first to diverge.
        """
        executed = self._executed_work + self._running_work
        if not executed:
            return None
        return (
            self._elapsed()
            * max(self._total - self._finished_work - self._running_work, 0.0)
            / executed
        )

    def text(self) -> str:
        """Return, as text, the number of finished cells, their rate and the time left."""
        parts = [f"{self.finished}/{self.cells} cells"]
        if self.finished > self._finished_at_start:
            parts.append(
                _rate((self.finished - self._finished_at_start) / max(self._elapsed(), 1e-9))
            )
        left = self.remaining()
        if self.finished == self.cells:
            parts.append(f"in {duration(self._elapsed())}")
        elif left is not None:
            parts.append(f"up to {duration(left)} left")
        return ", ".join(parts)

    def now(self) -> str:
        """Return the cells in training, as text."""
        cells = [f"{cell} ({part:.0%})" for cell, part in self.running.items()]
        return f"training {', '.join(cells)}" if cells else ""

    def _elapsed(self) -> float:
        return time.monotonic() - self._start


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:.1f} cells/s"
    if per_second >= 1 / 60:
        return f"{per_second * 60:.1f} cells/min"
    return f"{per_second * 3600:.1f} cells/h"


class Silent:
    """A display that shows nothing."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def show(self, tally: Tally) -> None:
        """Show how far the sweep is."""


class Lines(Silent):
    """Plain lines on standard error, for logs and pipes."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY

    def show(self, tally: Tally) -> None:
        """Print a line if `LINE_EVERY` seconds have passed or the sweep is finished."""
        if time.monotonic() >= self._next or tally.finished == tally.cells:
            self._next = time.monotonic() + LINE_EVERY
            print(f"{tally.fraction:4.0%}  {tally.text()}", file=sys.stderr, flush=True)


class Bar(Silent):
    """A live bar, with the cells in training below it."""

    def __init__(self, console: Any):
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns: Sequence[Any] = (
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("", total=1.0, text="")
        self._live = Live(self._progress, console=console, refresh_per_second=5)

    def __enter__(self) -> "Bar":
        self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.update(self._progress, refresh=True)
        self._live.stop()

    def show(self, tally: Tally) -> None:
        """Redraw the bar."""
        from rich.console import Group
        from rich.text import Text

        self._progress.update(self._task, completed=tally.fraction, text=tally.text())
        now = Text(tally.now(), style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(self._progress, now))


def reporter(shown: bool) -> Silent:
    """Return the display for standard error: a live bar on a terminal, else plain lines."""
    if not shown:
        return Silent()
    from rich.console import Console

    console = Console(stderr=True)
    return Bar(console) if console.is_terminal or console.is_jupyter else Lines()
