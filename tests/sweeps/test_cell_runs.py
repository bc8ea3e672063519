"""The runs of a sweep's cells: the options of each, its values, and what a store records."""

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run

import fastdln
from fastdln.config import TrainConfig
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Cell, Grid
from fastdln.training import batched


def test_a_worker_with_narrower_vectors_trains_a_batch_cell_by_cell(monkeypatch):
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=5))
    cells = tuple(Cell((0, 0, 0, i), "gaussian", 3, 4, i) for i in range(3))
    together = dict(runs.train(cells))
    monkeypatch.setattr(batched, "can_batch_on_cpu", lambda prepared: False)
    alone = dict(runs.train(cells))
    assert alone.keys() == together.keys() == set(cells)
    for cell in cells:
        np.testing.assert_array_equal(alone[cell]["loss"], together[cell]["loss"])


def test_float32_is_passed_on():
    single, double = run(dtype="float32"), run()
    assert single.attrs["dtype"] == "float32"
    assert not single.loss.equals(double.loss)


def test_optimiser_options_reach_every_network():
    problem = fastdln.paper_regression()
    options = {"momentum": 0.5, "weight_decay": 0.01, "gain": 0.9, "learning_rate": 1e-5}
    ds = fastdln.sweep(
        problem, [8], [3], ["orthogonal"], steps=20, progress=False, record_steps=[0, 20], **options
    )
    alone = fastdln.train(problem, width=8, depth=3, steps=20, **options)
    np.testing.assert_array_equal(ds.loss.values.ravel(), alone.loss[[0, 20]])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"record_steps": [3, 2]}, ValueError, "record_steps must increase"),
        ({"record_steps": [51]}, ValueError, r"at most steps \(50\), not 51"),
        ({"record_steps": []}, ValueError, "record_steps must have at least one value"),
        ({"problem": "paper"}, TypeError, "problem must have d_x, d_y, loss"),
        ({"batch_size": 99}, ValueError, "batch_size must be at most the 4 samples"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, words, monkeypatch):
    monkeypatch.setattr(CellRuns, "train", None)
    with pytest.raises(kind, match=words):
        run(**change)


def test_a_cell_has_its_axes_and_the_shared_options():
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=9, momentum=0.5, dtype="float32"))
    config = runs.config_of(Cell((0, 0, 0, 0), "identity", 7, 3, 11))
    assert (config.init, config.width, config.depth, config.seed) == ("identity", 7, 3, 11)
    assert (config.steps, config.momentum, config.dtype) == (9, 0.5, "float32")


def test_cells_that_differ_in_their_seed_share_a_plan():
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=9))
    grid = Grid(("gaussian", "orthogonal"), (5, 30), (3,), (0, 1), (0,))
    plans = runs.plans(grid.cells())
    assert plans.keys() == set(grid.cells())
    assert len({id(plan) for plan in plans.values()}) == 4
    for cell, plan in plans.items():
        assert plan.full_widths == (6, cell.width, cell.width, 3)


def test_the_values_of_a_cell_are_those_of_its_result():
    problem = sweep_cases.problem()
    runs = CellRuns.of(problem, TrainConfig(steps=20, learning_rate=1e-3), (0, 7, 20))
    cell = Cell((0, 0, 0, 0), "gaussian", 5, 3, 4)
    alone = fastdln.train(
        problem, width=5, depth=3, init="gaussian", seed=4, steps=20, learning_rate=1e-3
    )
    ((found, values),) = runs.train((cell,))
    assert found == cell
    np.testing.assert_array_equal(values["loss"], alone.loss[[0, 7, 20]])
    assert (values["initial_loss"], values["learning_rate"]) == (alone.loss[0], 1e-3)
    assert (values["steps_taken"], values["status"]) == (20, "completed")
    assert values["method"] == "dense"


def test_a_cell_reports_its_steps_up_to_the_last():
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=30, learning_rate=1e-3))
    cell, seen = Cell((0, 0, 0, 0), "gaussian", 5, 3, 0), []
    list(runs.train((cell,), lambda *report: seen.append(report)))
    assert {reported for reported, _ in seen} == {cell}
    steps = [step for _, step in seen]
    assert steps == sorted(set(steps))
    assert steps[-1] == 30


def test_every_cell_of_a_batch_reports_its_steps():
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=1000, learning_rate=1e-9))
    cells = tuple(Cell((0, 0, 0, i), "gaussian", 5, 3, i) for i in range(3))
    seen = {cell: [] for cell in cells}
    ended = list(runs.train(cells, lambda cell, step: seen[cell].append(step)))
    assert [cell for cell, _ in ended] == list(cells)
    for steps in seen.values():
        assert steps == sorted(set(steps))
        assert 0 < steps[0] <= steps[-1] <= 1000


def test_a_report_that_raises_stops_the_cell():
    def stop(cell, step):
        raise InterruptedError("enough")

    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=30, learning_rate=1e-3))
    with pytest.raises(InterruptedError, match="enough"):
        list(runs.train((Cell((0, 0, 0, 0), "gaussian", 5, 3, 0),), stop))


def test_a_record_names_the_axes_the_options_and_the_problem():
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=9, momentum=0.5), (0, 9))
    grid = Grid(("gaussian",), (5, 8), (3,), (0,), runs.record_steps)
    record = runs.attributes(grid, needs_fingerprint=True)
    assert record["problem"].startswith("Regression(d_x=6, d_y=3) sha256:")
    assert (record["inits"], record["widths"], record["depths"]) == (["gaussian"], [5, 8], [3])
    assert (record["seeds"], record["record_steps"]) == ([0], [0, 9])
    assert (record["steps"], record["momentum"]) == (9, 0.5)
    assert record["learning_rate"] == "largest of Theorem 4.1"
