"""Register tiles against NumPy, and the plain twins that stand in with JIT switched off."""

import subprocess
import sys

import numba
import numpy as np
import pytest

from fastdln.kernels.cpu import tiles


@numba.njit
def product(rows, X, x_row, x_k, Y, y_k, out, o_row, count, fresh):
    if rows == 5:
        tiles.product_tile(5, 2, X, 0, x_row, x_k, Y, 0, y_k, out, 0, o_row, count, fresh, 10**6)
    else:
        tiles.product_tile(1, 1, X, 0, x_row, x_k, Y, 0, y_k, out, 0, o_row, count, fresh, 10**6)


@numba.njit
def dot(X, x_row, Y, y_row, out, o_row, count):
    tiles.dot_tile(2, X, 0, x_row, Y, 0, y_row, out, 0, o_row, count, 10**6)


@numba.njit
def turn(X, x_row, rows, out, o_row):
    tiles.turn_tile(X, 0, x_row, rows, out, 0, o_row)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_product_tile_adds_or_writes_a_product(count, transposed, fresh, dtype, rng):
    wide = 2 * tiles.lanes(dtype)
    X = rng.standard_normal((5, count)).astype(dtype)
    Y = rng.standard_normal((count, wide)).astype(dtype)
    out = rng.standard_normal((5, wide)).astype(dtype)
    expected = X @ Y + (0 if fresh else out)
    if fresh:
        out[:] = np.nan
    stored = np.ascontiguousarray(X.T if transposed else X)
    x_row, x_k = (1, 5) if transposed else (count, 1)
    product(5, stored.ravel(), x_row, x_k, Y.ravel(), wide, out.ravel(), wide, count, fresh)
    np.testing.assert_allclose(out, expected, atol=20 * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_dot_tile(count, dtype, rng):
    length = count * tiles.lanes(dtype)
    X = rng.standard_normal((2, length)).astype(dtype)
    Y = rng.standard_normal((4, length)).astype(dtype)
    out = np.zeros((2, 4), dtype)
    dot(X.ravel(), length, Y.ravel(), length, out.ravel(), 4, count)
    np.testing.assert_allclose(out, X @ Y.T, atol=2 * length * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("missing", [0, 1])
def test_turn_tile_transposes_the_rows_that_are_there(missing, dtype, rng):
    n = tiles.lanes(dtype)
    X = rng.standard_normal((n, n + 3)).astype(dtype)
    out = np.ones((n, n + 5), dtype)
    rows = n - missing
    turn(X[:rows].ravel(), n + 3, rows, out.ravel(), n + 5)
    np.testing.assert_array_equal(out[:, :rows], X[:rows, :n].T)
    assert not out[:, rows:n].any()
    assert (out[:, n:] == 1).all()


def test_kernels_agree_with_themselves_without_jit():
    """The same small training run in one process with JIT and in another without."""
    program = (
        "import fastdln, numpy as np\n"
        "p = fastdln.Regression(np.arange(6.0).reshape(3, 2) - 2, np.ones((4, 2)))\n"
        "net = fastdln.Network([np.full((5, 3), .3), np.eye(5), np.full((4, 5), .2)])\n"
        "r = fastdln.train(p, network=net, steps=5, learning_rate=.01)\n"
        "print(*[x.hex() for x in r.loss])\n"
    )

    def losses(disable):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**__import__("os").environ, "NUMBA_DISABLE_JIT": disable},
        )  # fmt: skip
        return np.array([float.fromhex(x) for x in run.stdout.split()])

    np.testing.assert_allclose(losses("1"), losses("0"), rtol=1e-13)
