"""Networks: checks, files, and the import of the package."""

import subprocess
import sys

import numpy as np
import pytest

import fastdln


def test_integer_layers_are_converted():
    net = fastdln.Network([np.eye(3, dtype=int), [[1, 0, 2]]])
    assert net.dtype == np.float64
    np.testing.assert_array_equal(net.end_to_end(), [[1, 0, 2]])
    assert "depth=2" in repr(net)


def test_networks_are_saved_and_loaded(tmp_path, dtype):
    problem = fastdln.paper_regression()
    trained = fastdln.train(problem, width=30, depth=5, steps=3, dtype=dtype).network
    trained.save(tmp_path / "network.npz")
    loaded = fastdln.Network.load(tmp_path / "network.npz")
    assert loaded.dtype == dtype
    for a, b in zip(loaded.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["network.npz"]


def test_files_that_hold_no_network(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastdln.Network.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.eye(2))
    np.save(tmp_path / "array.npy", np.eye(2))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other.npz", "array.npy", "text.npz"):
        with pytest.raises(ValueError, match=name):
            fastdln.Network.load(tmp_path / name)
    np.savez(tmp_path / "nan.npz", **{"0": np.full((2, 2), np.nan)})
    with pytest.raises(ValueError, match="layer 1 must be finite"):
        fastdln.Network.load(tmp_path / "nan.npz")


BAD_NETWORKS = [
    ([], ValueError, "at least one layer"),
    ([np.eye(3), np.ones((2, 4))], ValueError, r"layer 2 of shape \(2, 4\) must have as many"),
    ([np.eye(3), [[1, np.nan, 0]]], ValueError, "layer 2 must be finite"),
    ([np.ones(3)], ValueError, "layer 1 must be a non-empty matrix"),
    ([np.eye(3), np.eye(3, dtype="float32")], TypeError, "layer 2 is float32, not float64"),
    ([np.eye(3, dtype="float16")], TypeError, "dtype must be 'float32' or 'float64'"),
    ([np.eye(2, dtype=complex)], TypeError, "layer 1 must hold real numbers"),
]


@pytest.mark.parametrize(("weights", "error", "message"), BAD_NETWORKS)
def test_bad_networks(weights, error, message):
    with pytest.raises(error, match=message):
        fastdln.Network(weights)


def test_import_is_light():
    program = (
        "import sys, fastdln; "
        "print([m for m in ('xarray', 'zarr', 'matplotlib', 'cupy', 'dask', 'numba', 'scipy')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
