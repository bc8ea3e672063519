"""Sweeps: their results, their order, and their arguments."""

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run, same

import fastdln
from fastdln.config import TrainConfig
from fastdln.sweeps import scheduling, store
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.fingerprint import digest
from fastdln.sweeps.grid import Cell, Grid, default_record_steps, recorded
from fastdln.training import batched
from fastdln.training.train import train
from fastdln.utils import memory, threads


def test_every_cell_is_what_train_computes():
    ds = run(seeds=(0, 5), record_steps=(0, 3, 50), learning_rate=1e-3)
    assert ds.loss.dims == ("init", "width", "depth", "seed", "step")
    for index in np.ndindex(*ds.status.shape):
        cell = ds.isel(dict(zip(ds.status.dims, index, strict=True)))
        with threads.limited(1):
            r = train(
                sweep_cases.problem(),
                width=int(cell.width),
                depth=int(cell.depth),
                init=str(cell.init.values),
                seed=int(cell.seed),
                steps=50,
                learning_rate=1e-3,
            )
        np.testing.assert_array_equal(cell.loss, r.loss[[0, 3, 50]])
        assert cell.initial_loss == r.loss[0]
        assert cell.learning_rate == 1e-3
        assert (cell.status, cell.steps_taken) == (r.status, r.steps_taken)
        assert cell.method == r.method
        assert cell.seconds > 0


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


def test_a_worker_with_narrower_vectors_trains_a_batch_cell_by_cell(monkeypatch):
    runs = CellRuns.of(sweep_cases.problem(), TrainConfig(steps=5))
    cells = tuple(Cell((0, 0, 0, i), "gaussian", 3, 4, i) for i in range(3))
    together = dict(runs.train(cells))
    monkeypatch.setattr(batched, "can_batch_on_cpu", lambda prepared: False)
    alone = dict(runs.train(cells))
    assert alone.keys() == together.keys() == set(cells)
    for cell in cells:
        np.testing.assert_array_equal(alone[cell]["loss"], together[cell]["loss"])


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


class Distance:
    """A problem of a user's own: ½‖M − A‖²."""

    d_x, d_y, smoothness = 4, 2, 1.0

    def __init__(self, A):
        self.A = A

    def loss(self, M):
        return 0.5 * float(np.sum((M - self.A) ** 2))

    def gradient(self, M):
        return M - self.A


def test_any_objective_can_be_swept_and_is_told_apart_from_others(tmp_path):
    A = np.arange(8.0).reshape(2, 4)
    ds = run(problem=Distance(A), store=tmp_path / "s", inits=["orthogonal"])
    assert ds.attrs["problem"].startswith("Distance(d_x=4, d_y=2) sha256:")
    assert (ds.loss.isel(step=-1) < ds.initial_loss).any()
    again = Distance(A.copy(order="F"))
    assert same(ds, run(problem=again, store=tmp_path / "s", inits=["orthogonal"]))
    with pytest.raises(ValueError, match=r"problem is .* there and .* here"):
        run(problem=Distance(A + 1e-9), store=tmp_path / "s", inits=["orthogonal"])


def test_what_a_problem_has_computed_does_not_change_its_digest():
    p = sweep_cases.problem()
    before = digest(p)
    assert p.reduced.rank == 4
    assert digest(p) == before != digest(sweep_cases.problem(1))


def test_float32_is_passed_on():
    single, double = run(dtype="float32"), run()
    assert single.attrs["dtype"] == "float32"
    assert not single.loss.equals(double.loss)


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


def test_the_number_of_workers_does_not_change_the_results():
    assert same(run(workers=1), run(workers=3))


def test_the_most_expensive_cells_come_first(monkeypatch):
    order = []
    real = CellRuns.train

    def noted(self, batch, report=None):
        order.extend((cell.width, cell.depth) for cell in batch)
        return real(self, batch, report)

    monkeypatch.setattr(CellRuns, "train", noted)
    run(workers=1, inits=["gaussian"])
    assert order[0] == (8, 6)
    assert order[-1][1] == 1


def test_an_error_in_a_cell_is_raised(monkeypatch):
    def failing(self, batch, report=None):
        raise MemoryError("not enough memory")

    monkeypatch.setattr(CellRuns, "train", failing)
    with pytest.raises(MemoryError, match="not enough memory"):
        run()


def test_a_finished_store_is_answered_without_training(tmp_path, monkeypatch):
    first = run(store=tmp_path / "s")
    monkeypatch.setattr(CellRuns, "train", None)
    assert run(store=tmp_path / "s").identical(first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 60, "record_steps": [0, 50]}, "steps is 50 there and 60 here"),
        ({"widths": [3, 9]}, "widths has 8 only there and 9 only here"),
        ({"depths": [1, 4]}, "depths has 6 only there"),
        ({"widths": [8, 3]}, r"widths is \[3, 8\] there and \[8, 3\] here"),
        ({"inits": ["orthogonal"]}, "inits has 'gaussian' only there"),
        ({"seeds": [1]}, "seeds has 0 only there and 1 only here"),
        ({"record_steps": [0]}, "record_steps has 50 only there"),
        ({"learning_rate": 0.01}, "learning_rate is 'largest of Theorem 4.1' there and 0.01 here"),
        ({"dtype": "float32"}, "dtype is 'float64' there and 'float32' here"),
        ({"method": "dense"}, "method is 'auto' there and 'dense' here"),
        ({"problem": sweep_cases.problem(1)}, "problem is '.* there and '.* here"),
    ],
)
def test_other_arguments_are_refused_by_name(tmp_path, change, words):
    given = {"record_steps": [0, 50], "store": tmp_path / "s"}
    first = run(**given)
    with pytest.raises(ValueError, match=words):
        run(**{**given, **change})
    assert store.read(tmp_path / "s").equals(first)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"widths": []}, ValueError, "widths must have at least one value"),
        ({"widths": [3, 0]}, ValueError, "every one of widths must be at least 1, not 0"),
        ({"widths": [3, -1]}, ValueError, "at least 1, not -1"),
        ({"widths": [3, 3]}, ValueError, "widths must be distinct, but 3 is given more than once"),
        ({"widths": [3.5]}, TypeError, "whole number"),
        ({"widths": 3.5}, TypeError, "widths must be a list, not 3.5"),
        ({"widths": [3], "width": 4}, TypeError, "got both width and widths"),
        ({"widths": None}, TypeError, "needs widths"),
        ({"init": "orthogonall"}, ValueError, "did you mean 'orthogonal'"),
        ({"widths": "33"}, TypeError, "widths must be a list"),
        ({"widths": [2**70]}, ValueError, r"less than 2\*\*63"),
        ({"depths": [0]}, ValueError, "every one of depths must be at least 1"),
        ({"inits": ["xavier"]}, ValueError, "'gaussian'.*not 'xavier'"),
        ({"inits": ["gaussian"] * 2}, ValueError, "inits must be distinct"),
        ({"seeds": [-1]}, ValueError, "every one of seeds must be at least 0"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 2.0}, TypeError, "steps must be a whole number"),
        ({"record_steps": [3, 2]}, ValueError, "record_steps must increase"),
        ({"record_steps": [51]}, ValueError, r"at most steps \(50\), not 51"),
        ({"record_steps": []}, ValueError, "record_steps must have at least one value"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"dtype": "int32"}, TypeError, "dtype must be"),
        ({"method": "fast"}, ValueError, "method must be one of"),
        ({"method": "reduced"}, ValueError, "gaussian"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"problem": "paper"}, TypeError, "problem must have d_x, d_y, loss"),
        ({"store": 7}, TypeError, "store must be the path of a directory"),
        ({"store": "s3://bucket/run"}, ValueError, "local directory"),
        ({"client": "tcp://host"}, TypeError, "client must be a dask.distributed Client"),
        ({"client": object(), "workers": 2}, ValueError, "workers is for this process"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, words, monkeypatch):
    monkeypatch.setattr(CellRuns, "train", None)
    with pytest.raises(kind, match=words):
        run(**change)


def test_networks_that_do_not_fit_in_memory_are_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    message = r"training 2 networks at a time needs [\d,]+ bytes .* 1,000 bytes .* fewer workers"
    with pytest.raises(MemoryError, match=message):
        run(store=tmp_path / "s", workers=2)
    assert not (tmp_path / "s").exists()


def test_networks_beyond_any_memory_are_refused_in_no_time():
    with pytest.raises(MemoryError, match="TiB"):
        run(widths=[10**6], depths=[10**4], inits=["gaussian"])


def test_the_size_of_the_results_is_known_without_making_them():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0, 5, 9))
    assert grid.bytes == sum(array.nbytes for array in grid.empty().values())


def test_a_cluster_gives_the_same_results(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        ds = run(client=client, store=tmp_path / "s")
    assert same(ds, run())
    assert same(ds, store.read(tmp_path / "s"))


def test_optimiser_options_reach_every_network():
    problem = fastdln.paper_regression()
    options = {"momentum": 0.5, "weight_decay": 0.01, "gain": 0.9, "learning_rate": 1e-5}
    ds = fastdln.sweep(
        problem, [8], [3], ["orthogonal"], steps=20, progress=False, record_steps=[0, 20], **options
    )
    alone = fastdln.train(problem, width=8, depth=3, steps=20, **options)
    np.testing.assert_array_equal(ds.loss.values.ravel(), alone.loss[[0, 20]])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"momentum": 2}, "momentum must be"),
        ({"batch_size": 99}, "batch_size must be at most the 16 samples"),
        ({"speed": 3}, r"options must be among gain, .* not 'speed'"),
        ({"gain": -1}, "gain"),
    ],
)
def test_optimiser_options_are_checked_at_the_door(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fastdln.sweep(fastdln.paper_regression(), [8], [3], steps=1, **option)


def test_a_store_knows_its_optimiser(tmp_path):
    problem = fastdln.paper_regression()
    arguments = {"steps": 2, "store": tmp_path / "run.zarr", "progress": False}
    fastdln.sweep(problem, [8], [3], momentum=0.5, **arguments)
    with pytest.raises(ValueError, match="momentum"):
        fastdln.sweep(problem, [8], [3], momentum=0.6, **arguments)
    with pytest.raises(ValueError, match="momentum"):
        fastdln.sweep(problem, [8], [3], **arguments)


def test_an_axis_may_have_its_singular_name_and_one_value():
    plural = run(widths=[8], depths=[4], inits=["orthogonal"], seeds=[3])
    given = {"steps": 50, "progress": False}
    problem = sweep_cases.problem()
    singular = fastdln.sweep(problem, width=8, depth=4, init="orthogonal", seed=3, **given)
    assert same(plural, singular)


def test_an_option_that_older_stores_lack_is_recorded_only_where_given(tmp_path):
    ds = run(tolerance=0.5, store=tmp_path / "s")
    assert ds.attrs["tolerance"] == 0.5
    assert "tolerance" not in run().attrs
    with pytest.raises(ValueError, match=r"tolerance is 0\.5 there and None here"):
        run(store=tmp_path / "s")
    assert (ds.status == "converged").any()
