"""Networks: checks, files, and the import of the package."""

import subprocess
import sys

import naive
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


@pytest.mark.parametrize("widths", [(), (1,), (5, 2), (7, 11, 3)])
@pytest.mark.parametrize(("d_x", "d_y"), [(6, 4), (3, 5), (1, 1)])
def test_products_of_layers(d_x, d_y, widths, dtype, rng):
    net = fastdln.initialize(d_x, d_y, width=widths, init="gaussian", dtype=dtype)
    L, X, eps = net.depth, rng.standard_normal((d_x, 2)), np.finfo(dtype).eps
    M = naive.end_to_end(net.weights)
    close = {"rtol": 0, "atol": 200 * eps * max(1, np.abs(M).max())}
    np.testing.assert_allclose(net.end_to_end(), M, **close)
    s = net.singular_values()
    np.testing.assert_allclose(s, np.linalg.svd(M, compute_uv=False), **close)
    for i in range(L + 1):
        A = naive.end_to_end([np.eye(d_x), *net.weights[:i]])
        B = naive.end_to_end([*net.weights[i:], np.eye(d_y)])
        products = net.prefix_product(i), net.suffix_product(i), net.prefix_product(i, X)
        for product, expected in zip(products, (A, B, A @ X), strict=True):
            np.testing.assert_allclose(product, expected, rtol=0, atol=close["atol"] * 10)
            assert product.dtype == dtype
            assert product.flags.writeable
            assert not any(np.may_share_memory(product, w) for w in (X, *net.weights))


BAD_PRODUCTS = [
    ({"i": -1}, ValueError, "i must be at least 0, not -1"),
    ({"i": 4}, ValueError, "i must be at most the depth, 3, not 4"),
    ({"i": 1.0}, TypeError, "i must be a whole number"),
    ({"i": True}, TypeError, "not the bool True"),
    ({"i": 1, "X": np.ones((5, 2))}, ValueError, r"X must have 6 rows \(d_x\), not shape \(5, 2\)"),
    ({"i": 1, "X": np.ones(6)}, ValueError, "X must be a non-empty matrix"),
    ({"i": 1, "X": np.full((6, 1), np.nan)}, ValueError, "X must be finite"),
    ({"i": 1, "X": np.ones((6, 1), complex)}, TypeError, "X must hold real numbers"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_PRODUCTS)
def test_bad_arguments_of_products(arguments, error, message):
    net = fastdln.initialize(6, 4, width=5, depth=3)
    with pytest.raises(error, match=message):
        net.prefix_product(**arguments)
    if "X" not in arguments:
        with pytest.raises(error, match=message):
            net.suffix_product(**arguments)


def test_a_network_that_diverged_has_no_singular_values():
    net = fastdln.Network.trusted([np.full((2, 3), np.inf)])
    with pytest.raises(ValueError, match="not finite and has no singular values"):
        net.singular_values()


def test_import_is_light():
    program = (
        "import sys, fastdln; "
        "print([m for m in ('xarray', 'zarr', 'matplotlib', 'cupy', 'dask', 'numba', 'scipy')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
