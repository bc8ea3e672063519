"""Estimate of a sweep's duration, from timings of a few of its networks on this machine."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastdln.sweeps.executors import CellBatch, Threads
from fastdln.sweeps.grid import Cell

if TYPE_CHECKING:
    from fastdln.reduction.plan import Plan
    from fastdln.sweeps.cell_runs import CellRuns

# Networks larger than this take too long to draw for a measurement of a fraction of a second; at
# this size they are far outside any cache, and the larger ones run at the same speed per operation.
LARGEST_PROBE = 100_000_000
PROBES = 4
# A run tries out its pace in spans that grow to 10 ms; those after them are too long for a probe.
PROBE_SECONDS = 0.01


def estimate(
    runs: "CellRuns", plans: "Mapping[Cell, Plan]", workers: int, seconds: float | None = None
) -> float:
    """Return the seconds that training all these cells would take: an upper estimate.

    A few cells between the cheapest and the most expensive are trained for some 10 ms each, on as
    many threads at a time as the sweep will use, for they share caches and memory. The other cells
    are assumed to run at the speed of their neighbours in cost. Cells that converge or diverge
    stop early, so the sweep usually takes less. Compiling the kernels, where this machine has not
    done so yet, happens here and not in the sweep.

    Parameters
    ----------
    runs : CellRuns
    plans : mapping of Cell to Plan
        The cells that are to be trained.
    workers : int
        Cells trained at a time.
    seconds : float, optional
        Time for each probe.
    """
    if not plans:
        return 0.0
    budget = PROBE_SECONDS if seconds is None else seconds
    probes = _probes(plans)
    flops = np.array([plans[cell].flops_per_step for cell in probes])
    pace = np.array([_step_seconds(runs, cell, workers, budget) for cell in probes]) / flops
    every = np.array([plan.flops_per_step for plan in plans.values()])
    # Interpolated in logarithms: speed changes where a network outgrows a cache.
    per_flop = np.exp(np.interp(np.log(every), np.log(flops), np.log(pace)))
    times = every * per_flop * max(runs.config.steps, 1)
    return float(max(times.sum() / workers, times.max()))


def _probes(plans: "Mapping[Cell, Plan]") -> list[Cell]:
    """Return cells evenly spread in cost, increasing, of distinct costs."""
    ordered = sorted(plans, key=lambda cell: plans[cell].flops_per_step)
    small = [c for c in ordered if plans[c].bytes <= LARGEST_PROBE] or ordered[:1]
    flops = np.log([plans[c].flops_per_step for c in small])
    wanted = np.linspace(flops[0], flops[-1], PROBES)
    chosen = {int(np.searchsorted(flops, w - 1e-9).clip(0, len(small) - 1)) for w in wanted}
    return [small[i] for i in sorted(chosen)]


def _step_seconds(runs: "CellRuns", cell: Cell, workers: int, budget: float) -> float:
    """Return the seconds of one step of this cell while `workers` copies run at the same time."""
    # At a step size this small no network converges or diverges within the measurement.
    config = dataclasses.replace(runs.config, steps=MOST_STEPS, learning_rate=1e-12)
    probe = dataclasses.replace(runs, config=config, record_steps=(0,))
    copies = [Cell((i, 0, 0, 0), cell.init, cell.width, cell.depth, i) for i in range(workers)]

    def paced(batch: CellBatch, report: object) -> "Iterator[tuple[Cell, dict[str, float]]]":
        pace = _Pace(budget)
        with contextlib.suppress(_MeasuredEnough):
            probe.run(batch[0]).train(pace)
        yield batch[0], {"seconds": pace.seconds}

    found = Threads(workers).results(paced, [(copy,) for copy in copies])
    return max(values["seconds"] for _, values in filter(None, found))


# Steps of a probe that is not stopped before, because a step takes less than 20 ns.
MOST_STEPS = 1_000_000


class _MeasuredEnough(Exception):
    """Raised in a probe's callback to stop its training."""


class _Pace:
    """Callback of a run that measures the seconds of a step and stops the run.

    Attributes
    ----------
    seconds : float
        Seconds of one step, in the longest of the run's spans.
    """

    def __init__(self, budget: float):
        self.seconds = np.inf
        self._budget = budget
        self._longest, self._step = 0.0, 0
        self._begun = self._last = time.perf_counter()

    def __call__(self, step: int, loss: float) -> None:
        now = time.perf_counter()
        span, steps = now - self._last, step - self._step
        # The first span holds drawing, and compiling.
        if self._step and span > self._longest:
            self.seconds, self._longest = span / steps, span
        elif not self._step:
            self.seconds, self._begun = span / steps, now
        self._last, self._step = now, step
        if now - self._begun > self._budget and self._longest:
            raise _MeasuredEnough
