"""The estimate of a sweep's duration."""

import pytest

from fastdln.config import TrainConfig
from fastdln.objectives.regression import paper_regression
from fastdln.sweeps import estimate as estimates
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.estimate import estimate
from fastdln.sweeps.grid import Grid


def test_the_estimate_grows_with_the_work_and_falls_with_workers():
    runs = CellRuns.of(paper_regression(), TrainConfig(steps=1000, dtype="float32"))
    grid = Grid(("gaussian",), (50,), (20, 40), (0,), (0,))
    plans = runs.plans(grid.cells())
    one = estimate(runs, plans, workers=1, seconds=0.02)
    assert 1e-3 < one < 60
    assert estimate(runs, {}, workers=1) == 0
    longer = CellRuns.of(paper_regression(), TrainConfig(steps=1_000_000, dtype="float32"))
    assert estimate(longer, plans, workers=1, seconds=0.02) > 50 * one


def test_the_estimate_is_the_work_at_the_measured_pace(monkeypatch):
    """At a pace of 1 ns an operation: all work by all workers, but never less than one cell."""

    def paced(runs, cell, workers, budget):
        return plans[cell].flops_per_step * 1e-9

    monkeypatch.setattr(estimates, "_step_seconds", paced)
    runs = CellRuns.of(paper_regression(), TrainConfig(steps=1000))
    cells = Grid(("gaussian",), (10, 50), (2, 5, 9), (0, 1), (0,)).cells()
    plans = runs.plans(cells)
    seconds = [1000 * plan.flops_per_step * 1e-9 for plan in plans.values()]
    assert estimate(runs, plans, workers=1) == pytest.approx(sum(seconds))
    assert estimate(runs, plans, workers=3) == pytest.approx(sum(seconds) / 3)
    assert estimate(runs, plans, workers=100) == pytest.approx(max(seconds))
