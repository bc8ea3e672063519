"""Estimate of a sweep's duration, from timings of a few of its networks on this machine."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastdln.sweeps.executors import Threads
from fastdln.sweeps.grid import Cell

if TYPE_CHECKING:
    from fastdln.reduction.plan import Plan
    from fastdln.sweeps.cell_runs import CellRuns

# Networks larger than this take too long to draw for a measurement of seconds; at this size
# they are far outside any cache, and the larger ones run at the same speed per operation.
LARGEST_PROBE = 100_000_000
PROBES = 5
PROBE_SECONDS = 0.2


def estimate(
    runs: "CellRuns", plans: "Mapping[Cell, Plan]", workers: int, seconds: float | None = None
) -> float:
    """Return the seconds that training all these cells would take: an upper estimate.

    A few cells between the cheapest and the most expensive are trained for a fraction of a
    second each, on as many threads at a time as the sweep will use, for they share caches and
    memory. The other cells are assumed to run at the speed of their neighbours in cost. Cells
    that converge or diverge stop early, so the sweep usually takes less. Compiling the kernels,
    where this machine has not done so yet, happens here and not in the sweep.

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
    copies = [Cell((i, 0, 0, 0), cell.init, cell.width, cell.depth, i) for i in range(workers)]
    start = _timed(runs, copies, 1)  # also compiles, and fills caches
    start = min(start, _timed(runs, copies, 1))
    steps, spent = 1, 0.0
    while spent < budget:
        steps = _next_steps(steps, spent, budget)
        spent = max(_timed(runs, copies, steps) - start, 0.0)
        if steps >= MOST_STEPS:
            break
    return max(spent, 1e-7) / steps


MOST_STEPS = 1_000_000


def _next_steps(steps: int, spent: float, budget: float) -> int:
    """Return a number of steps that should take the budget, growing at most tenfold."""
    growth = min(max(1.2 * budget / spent, 2.0), 10.0) if spent else 10.0
    return min(int(np.ceil(steps * growth)), MOST_STEPS)


def _timed(runs: "CellRuns", cells: Sequence[Cell], steps: int) -> float:
    """Return the wall time of training these cells at the same time for `steps` steps."""
    # At a step size this small no network converges or diverges within the measurement.
    config = dataclasses.replace(runs.config, steps=steps, learning_rate=1e-12)
    probe = dataclasses.replace(runs, config=config, record_steps=(0,))
    begin = time.perf_counter()
    for _ in Threads(len(cells)).results(probe.train, [(cell,) for cell in cells]):
        pass
    return time.perf_counter() - begin
