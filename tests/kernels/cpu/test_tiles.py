"""Register tiles against NumPy, and the plain twins that stand in with JIT switched off."""

import subprocess
import sys

import numba
import numpy as np
import pytest

from fastdln.kernels.cpu import tiles
from fastdln.kernels.cpu.groups import Operand

FAR_AWAY = 10**6


@numba.njit
def product(rows, X, Y, out, terms, overwrite):
    if rows == 5:
        tiles.product_tile(5, 2, X, Y, out, terms, overwrite, FAR_AWAY)
    else:
        tiles.product_tile(1, 1, X, Y, out, terms, overwrite, FAR_AWAY)


@numba.njit
def dot(X, Y, out, vectors):
    tiles.dot_tile(2, X, Y, out, vectors, FAR_AWAY)


@numba.njit
def transpose(X, rows, out):
    tiles.transpose_tile(X, rows, out)


def operand(matrix):
    """Return a matrix as an `Operand`; of a transposed one, of its memory."""
    rows, columns = (s // matrix.itemsize for s in matrix.strides)
    memory = matrix if matrix.flags.c_contiguous else matrix.T
    return Operand(memory.reshape(-1), 0, rows, columns)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_product_tile_adds_or_writes_a_product(count, transposed, overwrite, dtype, rng):
    wide = 2 * tiles.lanes(dtype)
    X = rng.standard_normal((5, count)).astype(dtype)
    Y = rng.standard_normal((count, wide)).astype(dtype)
    out = rng.standard_normal((5, wide)).astype(dtype)
    expected = X @ Y + (0 if overwrite else out)
    if overwrite:
        out[:] = np.nan
    x = operand(np.asfortranarray(X) if transposed else X)
    product(5, x, operand(Y), operand(out), count, overwrite)
    np.testing.assert_allclose(out, expected, atol=20 * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_dot_tile(count, dtype, rng):
    length = count * tiles.lanes(dtype)
    X = rng.standard_normal((2, length)).astype(dtype)
    Y = rng.standard_normal((4, length)).astype(dtype)
    out = np.zeros((2, 4), dtype)
    dot(operand(X), operand(Y), operand(out), count)
    np.testing.assert_allclose(out, X @ Y.T, atol=2 * length * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("missing", [0, 1])
def test_transpose_tile_transposes_the_rows_that_are_there(missing, dtype, rng):
    n = tiles.lanes(dtype)
    X = rng.standard_normal((n, n + 3)).astype(dtype)
    out = np.ones((n, n + 5), dtype)
    rows = n - missing
    transpose(operand(X[:rows]), rows, operand(out))
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
