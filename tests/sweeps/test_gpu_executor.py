"""Sweeps on a GPU: the values of the CPU, many cells at once where the kernels allow it."""

import numpy as np
import pytest

import fastdln
from fastdln import figures
from fastdln.figures import Preset
from fastdln.sweeps import store


def problem(rng):
    return fastdln.Regression(rng.standard_normal((6, 9)), rng.standard_normal((3, 9)))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"optimizer": "adam"}], ids=str)
def test_cells_have_the_values_of_the_cpu(options, gpu, rng):
    given, inits = problem(rng), ("gaussian", "orthogonal", "balanced")
    common = {"steps": 6, "learning_rate": 0.01, "progress": False} | options
    ours, theirs = (
        fastdln.sweep(given, [4, 9], [1, 3, 4], inits, device=device, **common)
        for device in (gpu, "cpu")
    )
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)
    for name in ("learning_rate", "steps_taken", "method", "status"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_bits_do_not_depend_on_the_other_cells(gpu, rng):
    """Neither on how many networks there are, nor on their widths, depths and order."""
    common = {"steps": 6, "dtype": "float32", "progress": False, "device": gpu}
    given = problem(rng)
    one = fastdln.sweep(given, [9], [5], ("gaussian",), **common)
    many = fastdln.sweep(given, [4, 9, 30], [2, 5, 9], ("gaussian", "orthogonal"), **common)
    there = many.sel(init=["gaussian"], width=[9], depth=[5])
    np.testing.assert_array_equal(one.loss, there.loss)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.4}], ids=str)
def test_cells_have_minibatches_of_their_own(options, gpu, rng):
    common = {"steps": 9, "batch_size": 4, "seeds": (0, 1), "progress": False} | options
    given = problem(rng)
    found = [
        fastdln.sweep(given, [5, 9], [2, 4], ("gaussian", "orthogonal"), device=device, **common)
        for device in ("cpu", gpu)
    ]
    np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-9)


def test_a_store_is_filled(gpu, rng, tmp_path):
    pytest.importorskip("zarr")
    common = {"steps": 20, "seeds": (0, 1), "progress": False}
    given = problem(rng)
    found = [
        fastdln.sweep(given, [5, 12], [2, 6], store=tmp_path / device, device=device, **common)
        for device in ("cpu", gpu)
    ]
    np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-9)
    np.testing.assert_array_equal(found[1].steps_taken, found[0].steps_taken)
    assert (store.read(tmp_path / gpu).status != "pending").all()


def test_a_figure_estimates_no_time_of_the_cpu(gpu, tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.setitem(figures.FIGURE1, "quick", Preset((5, 9), (1, 3), 10, (0, 5, 10)))
    said = []
    files = figures.figure1("quick", tmp_path, device=gpu, progress=False, say=said.append)
    assert all(f.exists() for f in files)
    assert "estimated time" not in said[0]


def test_a_cluster_trains_on_its_gpus(shim_gpu, rng):
    distributed = pytest.importorskip("distributed")
    common = {"steps": 4, "progress": False}
    given = problem(rng)
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as client:
        ours = fastdln.sweep(given, [5], [2, 3], device="gpu", client=client, **common)
    theirs = fastdln.sweep(given, [5], [2, 3], **common)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)
