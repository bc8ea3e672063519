"""Batches of a sweep's cells: which cells are trained together, and that it changes no bit."""

import pytest
import sweep_cases
from sweep_cases import run, same

import fastdln
from fastdln.config import TrainConfig
from fastdln.kernels.cpu.tiles import lanes
from fastdln.sweeps import scheduling
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Cell, Grid


def test_batched_cells_have_the_bits_of_cells_alone(monkeypatch):
    sizes = []
    real = CellRuns.train

    def noted(self, batch, report=None):
        sizes.append(len(batch))
        return real(self, batch, report)

    monkeypatch.setattr(CellRuns, "train", noted)
    options = {
        "seeds": range(9),
        "workers": 2,
        "dtype": "float32",
        "depths": [1, 4],
        "steps": 200,
        "learning_rate": 1e-3,
    }
    together = run(**options)
    assert max(sizes) > 1
    assert sum(sizes) == together.status.size
    monkeypatch.setattr(scheduling, "batching_pays", lambda widths, dtype, count: False)
    sizes.clear()
    alone = run(**options)
    assert max(sizes) == 1
    assert same(together, alone)


def test_large_cells_and_those_that_gain_nothing_are_not_batched():
    runs = CellRuns.of(fastdln.paper_regression(), TrainConfig(steps=5, dtype="float32"))

    def sizes(widths, seeds, threads, most=None, depth=4):
        cells = [
            Cell((0, i, 0, j), "orthogonal", w, depth, j)
            for i, w in enumerate(widths)
            for j in range(seeds)
        ]
        found = scheduling.cell_batches(runs, runs.plans(cells), cells, threads, most)
        assert sorted(map(str, sum(found, ()))) == sorted(map(str, cells))
        return sorted(map(len, found))

    # Reduced networks have one shape whatever their width is.
    assert sizes([50, 1000], 16, 2) == [16, 16]
    assert sizes([50, 1000], 32, 2, most=16) == [16] * 4
    assert sizes([10**6], 8, 1) == [1] * 8
    assert sizes([50], 3, 1) == [1] * 3
    assert sizes([50], 64, 2, depth=700) == [1] * 64


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"device": "gpu"}], ids=str)
def test_cells_without_a_batched_kernel_are_trained_alone(options):
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=5, dtype="float32", **options))
    cells = list(Grid(("gaussian",), (8,), (4,), tuple(range(64)), (0,)).cells())
    found = scheduling.cell_batches(runs, runs.plans(cells), cells, threads=1)
    assert sorted(found, key=str) == sorted(((cell,) for cell in cells), key=str)


def test_a_batch_holds_as_many_networks_at_a_time_as_there_are_lanes(dtype):
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=5, dtype=dtype))
    cells = tuple(Grid(("gaussian",), (8,), (4,), tuple(range(40)), (0,)).cells())
    plans = runs.plans(cells)
    each = plans[cells[0]].bytes
    assert scheduling.batch_bytes(cells[:1], plans) == each
    assert scheduling.batch_bytes(cells, plans) == lanes(plans[cells[0]].dtype) * each
