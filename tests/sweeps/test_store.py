"""The store of a sweep on disk: what it accepts, refuses and survives."""

import os
import sys

import numpy as np
import pytest
import sweep_cases
import xarray as xr
import zarr
from sweep_cases import run, same

import fastdln
from fastdln.sweeps import store as stores
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.store import Store, read

GRID = Grid(("gaussian", "orthogonal"), (3, 8), (1, 4), (0,), (0, 5))
VALUES = {
    "loss": [2.0, 1.0],
    "initial_loss": 2.0,
    "learning_rate": 0.1,
    "steps_taken": 5,
    "seconds": 0.5,
    "method": "dense",
    "status": "completed",
}


def opened(path, **attributes):
    return Store(path, GRID, {"steps": 5, **attributes})


def test_cells_come_back_as_written_and_the_others_are_pending(tmp_path):
    cell = list(GRID.cells())[5]
    store = opened(tmp_path / "s")
    store.write(cell, VALUES)
    values = store.values()
    store.close()
    assert values["status"][cell.index] == "completed"
    assert (values["status"] == "pending").sum() == 7
    np.testing.assert_array_equal(values["loss"][cell.index], [2, 1])
    assert np.isnan(values["loss"]).sum() == 14
    assert (values["steps_taken"] == -1).sum() == 7


def test_xarray_reads_the_store_without_warnings_or_help(tmp_path):
    ds = run(store=tmp_path / "s")
    plain = xr.open_zarr(tmp_path / "s").load()
    assert (plain.status == "completed").any()
    assert plain.sel(init="gaussian", width=8, depth=4).loss.notnull().all()
    np.testing.assert_array_equal(plain.loss, ds.loss)
    assert same(ds, read(tmp_path / "s"))


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_the_metadata_are_those_that_zarr_consolidates(tmp_path):
    Store(tmp_path, GRID, {"steps": 5, "problem": "größte", "gain": 1.5}).close()
    ours = (tmp_path / "zarr.json").read_bytes()
    zarr.consolidate_metadata(tmp_path)
    assert ours == (tmp_path / "zarr.json").read_bytes()


def test_one_chunk_a_cell(tmp_path):
    run(store=tmp_path / "s", seeds=(0, 1))
    chunks = [f for f in (tmp_path / "s" / "loss" / "c").rglob("*") if f.is_file()]
    assert len(chunks) == 2 * 2 * 3 * 2


def test_a_cell_without_its_status_is_pending(tmp_path):
    cell = next(GRID.cells())
    store = opened(tmp_path / "s")
    store.write(cell, VALUES)
    (tmp_path / "s/status/c/0/0/0/0").unlink()
    assert store.values()["status"][cell.index] == "pending"
    store.close()


def test_a_creation_that_was_cut_off_is_done_again(tmp_path):
    path = tmp_path / "s"
    opened(path).close()
    (path / stores.CREATING).touch()
    (path / "zarr.json").unlink()
    (path / "loss" / "zarr.json").write_text("half a fi")
    opened(path).close()
    assert not (path / stores.CREATING).exists()
    assert (read(path).status == "pending").all()


def test_an_empty_directory_is_accepted(tmp_path):
    opened(tmp_path).close()
    assert read(tmp_path).sizes["width"] == 2


def test_a_store_that_is_being_written_is_refused_and_its_lock_is_given_back(tmp_path):
    store = opened(tmp_path / "s")
    with pytest.raises(BlockingIOError, match="is being written by another process"):
        opened(tmp_path / "s")
    store.close()
    opened(tmp_path / "s").close()


def test_other_attributes_are_refused_and_release_the_lock(tmp_path):
    opened(tmp_path / "s").close()
    with pytest.raises(ValueError, match="holds another sweep: steps is 5 there and 6 here"):
        opened(tmp_path / "s", steps=6)
    opened(tmp_path / "s").close()


def test_long_lists_are_compared_element_by_element(tmp_path):
    opened(tmp_path / "s", record_steps=list(range(100))).close()
    with pytest.raises(ValueError, match=r"record_steps has 10, 11, .* and 84 more only there;"):
        opened(tmp_path / "s", record_steps=list(range(10)))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        opened(tmp_path / "s")


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        opened(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_zarr_group_is_refused(tmp_path):
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(tmp_path / "z", consolidated=False)
    with pytest.raises(ValueError, match="holds other files"):
        opened(tmp_path / "z")
    with pytest.raises(ValueError, match="is not the store of a fastdln sweep"):
        read(tmp_path / "z")


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_an_unwritable_place_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot be created"):
            opened(tmp_path / "s")
        with pytest.raises(PermissionError, match="cannot be written"):
            opened(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_store_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written: permission denied"):
        opened(tmp_path / "s")


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be created: "):
        opened(tmp_path / "file" / "s")


def test_reading_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no sweep at"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is not the store"):
        read(tmp_path)


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
    assert read(tmp_path / "s").equals(first)


def test_a_store_knows_its_optimiser(tmp_path):
    problem = fastdln.paper_regression()
    arguments = {"steps": 2, "store": tmp_path / "run.zarr", "progress": False}
    fastdln.sweep(problem, [8], [3], momentum=0.5, **arguments)
    with pytest.raises(ValueError, match="momentum"):
        fastdln.sweep(problem, [8], [3], momentum=0.6, **arguments)
    with pytest.raises(ValueError, match="momentum"):
        fastdln.sweep(problem, [8], [3], **arguments)


def test_an_option_that_older_stores_lack_is_recorded_only_where_given(tmp_path):
    ds = run(tolerance=0.5, store=tmp_path / "s")
    assert ds.attrs["tolerance"] == 0.5
    assert "tolerance" not in run().attrs
    with pytest.raises(ValueError, match=r"tolerance is 0\.5 there and None here"):
        run(store=tmp_path / "s")
    assert (ds.status == "converged").any()
