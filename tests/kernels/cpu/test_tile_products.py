"""Products by whole tiles against NumPy, in float64."""

import numpy as np
import pytest

from fastdln.kernels.cpu.tile_products import Left, Right, Sums, clear, multiply_tiles, padded
from fastdln.kernels.cpu.tiles import lanes


@pytest.mark.parametrize("wide", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("tiles", "terms", "less"), [(1, 5, 0), (3, 16, 0), (3, 16, 4), (2, 1, 0)])
def test_tiles_are_added(wide, tiles, terms, less, dtype, rng):
    columns = wide * lanes(dtype)
    X = rng.standard_normal((4 * tiles, terms)).astype(dtype)
    Y = rng.standard_normal((terms, columns)).astype(dtype)
    start = rng.standard_normal((4 * tiles, columns)).astype(dtype)
    out = start.copy()
    multiply_tiles(
        tiles,
        wide,
        Left(X.ravel(), 0, 4 * terms, terms, 1),
        Right(Y.ravel(), 0, 0, columns),
        Sums(out.ravel(), 0, 4 * columns),
        terms,
        less,
    )
    for t in range(tiles):
        rows, count = slice(4 * t, 4 * t + 4), terms - t * less
        expected = start[rows] + X[rows, :count].astype(float) @ Y[:count]
        atol = 4 * terms * np.finfo(dtype).eps
        np.testing.assert_allclose(out[rows], expected, rtol=0, atol=atol)


def test_sizes_are_padded_to_whole_tiles():
    assert [int(padded(n)) for n in (1, 4, 5, 31)] == [4, 4, 8, 32]


def test_clear(dtype):
    x = np.ones(9, dtype)
    clear(x, 2, 5)
    np.testing.assert_array_equal(x, [1, 1, 0, 0, 0, 0, 0, 1, 1])
