"""Products, lane-wise loops and residuals of batches against NumPy, SIMD lane by lane."""

import numpy as np
import pytest

from fastdln.kernels.cpu import batched_tiles
from fastdln.kernels.cpu.batched_tiles import decay_and_add, residual_row, scale
from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.jit import kernel
from fastdln.kernels.cpu.layout import aligned_zeros
from fastdln.kernels.cpu.tiles import lanes


@kernel
def _scaled(A, first, factors, count):
    scale((A,), (first,), (factors,), count)


@kernel
def _decayed(A, B, places, factors, count):
    decay_and_add((A, B), places, (factors,), count)


@kernel
def _residual(M, C, problem, sums, place, count):
    residual_row(M, C, problem, sums, place, count)


def lanewise(matrices, dtype):
    """Store matrices (one a lane) as the kernels take them: lanes last, flat."""
    stored = aligned_zeros(matrices.size, dtype)
    stored.reshape(*matrices.shape[1:], -1)[:] = np.moveaxis(matrices, 0, -1)
    return stored


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(1, 1, 1), (3, 2, 1), (5, 4, 7), (10, 26, 26), (7, 13, 5), (20, 3, 17), (11, 9, 2)],
)
def test_multiply(rows, columns, count, overwrite, dtype, rng):
    n = lanes(dtype)
    X, Y, start = (
        rng.standard_normal((n, *shape)).astype(dtype)
        for shape in ((rows, count), (count, columns), (rows, columns))
    )
    expected = X.astype(np.float64) @ Y.astype(np.float64) + (0 if overwrite else start)
    atol = 4 * (count + 1) * np.finfo(dtype).eps
    for transposed in (False, True):
        # Co-states read layers transposed: the columns of Y are rows in memory.
        stored = lanewise(Y.transpose(0, 2, 1) if transposed else Y, dtype)
        y_k, y_c = (1, count) if transposed else (columns, 1)
        out = lanewise(np.full_like(start, np.nan) if overwrite else start, dtype)
        batched_tiles.multiply(
            Operand(lanewise(X, dtype), 0, count, 1),
            Operand(stored, 0, y_k, y_c),
            Operand(out, 0, columns, 1),
            rows,
            columns,
            count,
            overwrite,
        )
        got = np.moveaxis(out.reshape(rows, columns, n), -1, 0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_lanewise_loops_touch_only_their_vectors(count, dtype, rng):
    n = lanes(dtype)
    A, B = (rng.standard_normal((8, n)).astype(dtype) for _ in range(2))
    factors = rng.standard_normal(n).astype(dtype)
    scaled, decayed = A.copy(), A.copy()
    scaled[2 : 2 + count] *= factors
    decayed[2 : 2 + count] = factors * A[2 : 2 + count] + B[1 : 1 + count]
    first, second = A.reshape(-1).copy(), A.reshape(-1).copy()
    _scaled(first, 2, factors, count)
    _decayed(second, B.reshape(-1), (2, 1), factors, count)
    np.testing.assert_array_equal(first.reshape(8, n), scaled)
    np.testing.assert_array_equal(second.reshape(8, n), decayed)


def test_residuals_are_formed_in_float64(dtype, rng):
    n, count = lanes(dtype), 5
    M = rng.standard_normal((7, n)).astype(dtype)
    S, T = rng.standard_normal((2, 9, n))
    factors, sums = rng.standard_normal(n), rng.random(n)
    C, found = np.zeros((9, n), dtype), sums.copy()
    data = S.reshape(-1), T.reshape(-1), factors
    _residual(M.reshape(-1), C.reshape(-1), data, found, (2, 3), count)
    residual = M[2:7].astype(np.float64) * S[3:8] - T[3:8]
    expected = np.zeros((9, n), dtype)
    expected[3:8] = factors * residual * S[3:8]
    np.testing.assert_array_equal(C, expected)
    total = np.zeros(n)
    for row in residual:
        total += row * row
    np.testing.assert_array_equal(found, sums + total)
