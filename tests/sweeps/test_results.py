"""Results of a sweep: in memory, on disk, and found again."""

import numpy as np
import pytest
from sweep_cases import run

from fastdln.sweeps import store
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.results import open_results

GRID = Grid(("gaussian",), (3, 8), (1,), (0,), (0, 5))
VALUES = {
    "loss": [2.0, 1.0],
    "initial_loss": 2.0,
    "learning_rate": 0.1,
    "steps_taken": 5,
    "seconds": 0.5,
    "method": "dense",
    "status": "completed",
}


def test_a_finished_store_is_answered_without_training(tmp_path, monkeypatch):
    first = run(store=tmp_path / "s")
    monkeypatch.setattr(CellRuns, "train", None)
    assert run(store=tmp_path / "s").identical(first)


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "disk"])
def test_a_cell_is_pending_until_it_is_written(kept, tmp_path):
    first, second = GRID.cells()
    results = open_results(GRID, {"steps": 5}, tmp_path / "s" if kept else None)
    assert results.pending(first)
    assert results.pending(second)
    results.write(second, VALUES)
    assert (results.pending(first), results.pending(second)) == (True, False)
    np.testing.assert_array_equal(results.values["loss"][second.index], [2, 1])
    assert np.isnan(results.values["loss"][first.index]).all()
    assert results.attributes == {"kind": "fastdln sweep", "steps": 5}
    results.close()


def test_what_is_written_is_on_disk_at_once_and_found_again(tmp_path):
    first, second = GRID.cells()
    results = open_results(GRID, {"steps": 5}, tmp_path / "s")
    results.write(second, VALUES)
    assert store.read(tmp_path / "s").status.values.ravel().tolist() == ["pending", "completed"]
    results.close()
    again = open_results(GRID, {"steps": 5}, tmp_path / "s")
    assert (again.pending(first), again.pending(second)) == (True, False)
    np.testing.assert_array_equal(again.values["loss"], results.values["loss"])
    again.close()


def test_the_advice_says_how_to_continue(tmp_path):
    assert "with store=PATH" in open_results(GRID, {}, None).advice
    results = open_results(GRID, {}, tmp_path / "s")
    results.close()
    assert results.advice == f"run the same sweep again to continue from {tmp_path / 's'}"
