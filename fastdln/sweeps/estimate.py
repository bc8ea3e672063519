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
PROBES = 3
# Time of a probe's steps, which begin with spans of one step and of a few.
PROBE_SECONDS = 0.005


def estimate(
    runs: "CellRuns", plans: "Mapping[Cell, Plan]", workers: int, seconds: float | None = None
) -> float:
    """Return the seconds that training all these cells would take: an upper estimate.

    A few cells are trained for some milliseconds each, on as many threads at a time as the sweep
    will use, for they share caches and memory. The other cells are assumed to run at the speed of
    their neighbours in cost. Cells that converge or diverge stop early, so the sweep usually takes
    less. Compiling the kernels, where this machine has not done so yet, happens here and not in
    the sweep.

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
    """Return cells of distinct costs, increasing: the last of every third of the work."""
    ordered = sorted(plans, key=lambda cell: plans[cell].flops_per_step)
    small = [c for c in ordered if plans[c].bytes <= LARGEST_PROBE] or ordered[:1]
    flops = np.array([plans[c].flops_per_step for c in small])
    done = np.cumsum(flops)
    last = np.searchsorted(done, done[-1] * np.arange(1, PROBES + 1) / PROBES * (1 - 1e-12))
    chosen = {float(flops[i]): small[i] for i in last}
    return list(chosen.values())


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
    # The least: on a busy machine a probe may wait for its processor longer than it runs.
    return min(values["seconds"] for _, values in filter(None, found))


# Steps of a probe that is not stopped before, because a step takes less than 20 ns.
MOST_STEPS = 1_000_000


class _MeasuredEnough(Exception):
    """Raised in a probe's callback to stop its training."""


class _Pace:
    """Callback of a run that measures the seconds of a step and stops the run.

    Attributes
    ----------
    seconds : float
        Seconds of a step, the least of all spans but the first: it holds drawing and compiling.
    """

    def __init__(self, budget: float):
        self.seconds = np.inf
        self._left = budget
        self._step, self._last = 0, time.perf_counter()

    def __call__(self, step: int, loss: float) -> None:
        now = time.perf_counter()
        span, steps = now - self._last, step - self._step
        if self._step:
            self.seconds = min(self.seconds, span / steps)
            self._left -= span
        self._last, self._step = now, step
        if self._left <= 0:
            raise _MeasuredEnough
