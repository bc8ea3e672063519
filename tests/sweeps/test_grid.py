"""The grid of a sweep: its cells, its dataset, and the losses that are kept."""

import numpy as np
import pytest
from sweep_cases import run

from fastdln.sweeps.grid import VARIABLES, Cell, Grid, default_record_steps, recorded


def test_a_converged_network_keeps_its_last_loss():
    ds = run(widths=[8], depths=[1], inits=["gaussian"], steps=20_000)
    assert ds.status.item() == "converged"
    assert ds.steps_taken.item() < 20_000
    late = ds.loss.squeeze().values[ds.step.values >= ds.steps_taken.item()]
    assert np.unique(late).size == 1
    assert late[0] < 1e-20 * ds.initial_loss.item()


def test_a_diverged_network_is_infinite_from_there_on():
    ds = run(widths=[8], depths=[4], inits=["gaussian"], learning_rate=1e6)
    assert ds.status.item() == "diverged"
    loss = ds.loss.squeeze().values
    assert np.isfinite(loss[0])
    assert np.isposinf(loss[ds.step.values >= ds.steps_taken.item()]).all()


def test_recorded_reads_nan_at_the_end_of_a_diverged_run_as_inf():
    loss = np.array([1.0, 2.0, np.nan])
    np.testing.assert_array_equal(
        recorded(loss, "diverged", np.array([0, 1, 2, 9])), [1, 2, np.inf, np.inf]
    )


@pytest.mark.parametrize("steps", [0, 1, 2, 59, 10_000])
def test_default_record_steps_are_increasing_and_include_the_ends(steps):
    kept = default_record_steps(steps)
    assert kept[0] == 0
    assert kept[-1] == steps
    assert list(kept) == sorted(set(kept))
    assert len(kept) <= 62


def test_the_size_of_the_results_is_known_without_making_them():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0, 5, 9))
    assert grid.bytes == sum(array.nbytes for array in grid.empty().values())


def test_cells_are_in_the_order_of_a_nested_loop():
    grid = Grid(("gaussian", "balanced"), (3, 8), (1,), (0, 4), (0,))
    expected = [
        Cell((a, b, c, d), init, width, depth, seed)
        for a, init in enumerate(grid.init)
        for b, width in enumerate(grid.width)
        for c, depth in enumerate(grid.depth)
        for d, seed in enumerate(grid.seed)
    ]
    assert list(grid.cells()) == expected
    assert grid.shape == (2, 2, 1, 2)


def test_an_empty_dataset_is_pending_and_has_the_axes_as_coordinates():
    grid = Grid(("gaussian",), (3, 8), (1,), (0,), (0, 5, 9))
    ds = grid.dataset(grid.empty(), {"steps": 9})
    assert set(ds.data_vars) == set(VARIABLES)
    assert dict(ds.sizes) == {"init": 1, "width": 2, "depth": 1, "seed": 1, "step": 3}
    assert (ds.status == "pending").all()
    assert ds.loss.isnull().all()
    assert list(ds.width.values) == [3, 8]
    assert ds.attrs == {"steps": 9}
