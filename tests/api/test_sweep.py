"""Sweeps: what they compute, and that being stopped at any moment changes nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run, same

import fastdln
from fastdln.backends.cpu import batch as side_by_side
from fastdln.sweeps import scheduling as bundles
from fastdln.sweeps import store
from fastdln.sweeps.fingerprint import digest
from fastdln.sweeps.grid import Cell, Grid, default_record_steps, recorded
from fastdln.sweeps.progress import Tally, duration
from fastdln.sweeps.setting import Setting
from fastdln.training.run import train
from fastdln.utils import memory
from fastdln.utils import threads as parallel

SCRIPT = Path(sweep_cases.__file__).with_name("sweep_script.py")
# Long enough for a cell to be interrupted in the middle: about 0.1 s to 0.5 s each.
LONG = 120_000


def test_every_cell_is_what_train_computes():
    ds = run(seeds=(0, 5), record_steps=(0, 3, 50), learning_rate=1e-3)
    assert ds.loss.dims == ("init", "width", "depth", "seed", "step")
    for index in np.ndindex(*ds.status.shape):
        cell = ds.isel(dict(zip(ds.status.dims, index, strict=True)))
        with parallel.limited(1):
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


def test_cells_of_one_shape_go_side_by_side_with_the_bits_of_cells_alone(monkeypatch):
    sizes = []
    real = Setting.train

    def noted(self, bundle, report=None):
        sizes.append(len(bundle))
        return real(self, bundle, report)

    monkeypatch.setattr(Setting, "train", noted)
    options = {
        "seeds": range(9), "workers": 2, "dtype": "float32", "depths": [1, 4], "steps": 200,
        "learning_rate": 1e-3,
    }  # fmt: skip
    together = run(**options)
    assert max(sizes) > 1
    assert sum(sizes) == together.status.size
    monkeypatch.setattr(bundles, "worth_going_side_by_side", lambda layout, count: False)
    sizes.clear()
    alone = run(**options)
    assert max(sizes) == 1
    assert same(together, alone)


def test_a_worker_with_narrower_vectors_trains_a_bundle_cell_by_cell(monkeypatch):
    setting = Setting.of(sweep_cases.problem(), 5)
    cells = tuple(Cell((0, 0, 0, i), "gaussian", 3, 4, i) for i in range(3))
    together = dict(setting.train(cells))
    monkeypatch.setattr(side_by_side, "fits_side_by_side", lambda layout: False)
    alone = dict(setting.train(cells))
    assert alone.keys() == together.keys() == set(cells)
    for cell in cells:
        np.testing.assert_array_equal(alone[cell]["loss"], together[cell]["loss"])


def test_bundles_leave_what_is_large_and_what_gains_nothing_alone():
    setting = Setting.of(fastdln.paper_regression(), 5, dtype="float32")

    def sizes(widths, seeds, threads, most=None, depth=4):
        cells = [
            Cell((0, i, 0, j), "orthogonal", w, depth, j)
            for i, w in enumerate(widths)
            for j in range(seeds)
        ]
        found = bundles.bundles(setting, setting.plans(cells), cells, threads, most)
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
    real = Setting.train

    def noted(self, bundle, report=None):
        order.extend((cell.width, cell.depth) for cell in bundle)
        return real(self, bundle, report)

    monkeypatch.setattr(Setting, "train", noted)
    run(workers=1, inits=["gaussian"])
    assert order[0] == (8, 6)
    assert order[-1][1] == 1


def test_an_error_in_a_cell_is_raised(monkeypatch):
    def failing(self, bundle, report=None):
        raise MemoryError("no room")

    monkeypatch.setattr(Setting, "train", failing)
    with pytest.raises(MemoryError, match="no room"):
        run()


def start(path, steps=LONG):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), str(steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def done(path):
    """How many cells are done, from the files alone."""
    return len([f for f in (path / "status" / "c").rglob("*") if f.is_file()])


def wait_for_cells(process, path, count):
    deadline = time.monotonic() + 60
    while done(path) < count:
        assert process.poll() is None, "the sweep ended too early to be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_in_the_middle_and_continued_it_equals_the_uninterrupted_sweep(tmp_path):
    path = tmp_path / "killed.zarr"
    for cells in (1, 3):  # killed twice
        process = start(path)
        wait_for_cells(process, path, cells)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    partial = store.read(path)
    finished = partial.status.values != "pending"
    assert 3 <= finished.sum() < finished.size
    assert np.isnan(partial.initial_loss.values[~finished]).sum() >= (~finished).sum() - 2
    continued = run(store=path, steps=LONG)
    assert same(continued, run(steps=LONG))
    assert same(continued, store.read(path))
    # Cells that were done are not done again.
    np.testing.assert_array_equal(
        continued.seconds.values[finished], partial.seconds.values[finished]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_stops_within_about_a_second_and_says_how_to_continue(tmp_path):
    path = tmp_path / "stopped.zarr"
    process = start(path, steps=100 * LONG)  # hours
    wait_for_cells(process, path, 0)
    while not (path / "zarr.json").exists():
        time.sleep(0.01)
    time.sleep(1.0)  # into the training
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert time.monotonic() - begin < 3
    assert process.returncode == 130
    assert "run the same sweep again to continue from" in said
    assert "of 12 networks done" in said
    assert not store.read(path).status.isin(["completed"]).all()


def test_a_finished_store_is_answered_without_training(tmp_path, monkeypatch):
    first = run(store=tmp_path / "s")
    monkeypatch.setattr(Setting, "train", None)
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
        ({"widths": 3}, TypeError, "widths must be a list, not 3"),
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
    monkeypatch.setattr(Setting, "train", None)
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


def test_progress_off_is_silent_and_on_is_plain_lines_without_a_terminal(capfd):
    run()
    assert capfd.readouterr() == ("", "")
    run(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%  12/12 cells" in err
    assert "\x1b" not in err


def test_the_bar_shows_pace_and_what_is_running(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    run(progress=True)
    err = capfd.readouterr().err
    assert "12/12 cells" in err
    assert "100%" in err


def test_the_tally_counts_work_and_not_cells():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0,))
    small, large = grid.cells()
    tally = Tally({small: 1.0, large: 99.0}, steps=10)
    assert tally.remaining() is None
    tally.finish(small, 10)
    assert tally.fraction == pytest.approx(0.01)
    tally.watch({large: 5})
    assert tally.fraction == pytest.approx(0.505)
    assert tally.now() == "training gaussian width 2 depth 1 (50%)"
    assert "1/2 cells" in tally.text()
    assert "left" in tally.text()


def test_the_time_left_is_not_fooled_by_cells_that_stopped_early():
    grid = Grid(("gaussian",), (1, 2), (1,), (0,), (0,))
    first, second = grid.cells()
    early, full = (Tally({first: 1.0, second: 1.0}, steps=10) for _ in range(2))
    time.sleep(0.01)
    early.finish(first, 1)
    full.finish(first, 10)
    assert early.remaining() == pytest.approx(10 * full.remaining(), rel=0.2)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "under 1 s"), (90, "90 s"), (3000, "50 min"), (9000, "2.5 h"), (9e5, "10.4 days")],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words


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
        ({"speed": 3}, r"options must be among optimizer, .* not 'speed'"),
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
