"""Blocks of reflectors: rows drawn by chunks, T, and products with V, in float64."""

import numpy as np
import pytest

from fastdln.kernels.cpu import reflectors
from fastdln.kernels.cpu.random import Source
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import standard_normal

KEY = 123456789
BLOCK = int(reflectors.BLOCK)


@pytest.mark.parametrize(("n", "count"), [(50, 32), (2047, 32), (2049, 5), (4100, 32)])
def test_rows_drawn_in_chunks_are_the_rows_drawn_at_once(n, count, dtype):
    j, source = 32, Source(np.uint64(KEY), np.uint64(4))
    rows = int(padded(n)) - j
    count = min(count, n - j)
    expected = np.zeros((rows, BLOCK), dtype)
    for a in range(count):
        first = int(reflectors.first_normal(n, j + a))
        expected[a : n - j, a] = standard_normal(KEY, 4, n - j - a, dtype, first=first)
    V = np.full(rows * BLOCK, np.nan, dtype)
    block = reflectors.ReflectorBlock(V, 0, n, j, count)
    squares, places = np.empty((2, BLOCK)), np.empty(BLOCK, np.intp)
    scratch = np.empty(BLOCK * reflectors.PACKED_ROWS, dtype)
    middle = rows // 8 * 4
    for part, (a, b) in zip(squares, ((0, middle), (middle, rows)), strict=True):
        reflectors.draw_rows(source, block, a, b, part, places, scratch)
    np.testing.assert_array_equal(V.reshape(rows, BLOCK), expected)
    exact = (expected.astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(squares.sum(axis=0), exact, rtol=1e-13)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 31, 32])
def test_minus_t_is_the_inverse(count, dtype, rng):
    V = rng.standard_normal((100, BLOCK)).astype(dtype)
    V[:, count:] = 0
    S = np.zeros(BLOCK * BLOCK, dtype)
    reflectors.add_products(reflectors.ReflectorBlock(V.ravel(), 0, 100, 0, count), 32, 100, S)
    gram = V[32:].astype(float).T @ V[32:].astype(float)
    sizes = np.diag(gram) / 2
    T = np.full(BLOCK * BLOCK, np.nan, dtype)
    reflectors.invert(count, S, sizes, T, np.full(reflectors.INVERT_WORK, np.nan, dtype))
    inverse = np.triu(gram, 1)[:count, :count] + np.diag(sizes[:count])
    T = T.reshape(BLOCK, BLOCK)
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(-T[:count, :count] @ inverse, np.eye(count), atol=tolerance)
    assert not T[count:].any()
    assert not T[:, count:].any()


@pytest.mark.parametrize(("rows", "size"), [(32, 32), (36, 5), (96, 32), (100, 17)])
def test_products_with_a_block_are_those_of_its_matrix(rows, size, dtype, rng):
    width = 2 * lanes(dtype)
    V = np.tril(rng.standard_normal((rows, BLOCK))).astype(dtype)
    V[:, size:] = 0
    block = reflectors.ReflectorBlock(V.ravel(), 0, rows, 0, size)
    Q = rng.standard_normal((rows, width)).astype(dtype)
    panel = reflectors.Panel(Q.copy().ravel(), 0, width, 2)
    Z = np.zeros(BLOCK * width, dtype)
    reflectors.gather(block, panel, 0, rows, Z)
    tolerance = 30 * np.finfo(dtype).eps * rows**0.5
    expected = V.astype(float).T @ Q
    np.testing.assert_allclose(Z.reshape(BLOCK, width), expected, atol=tolerance)
    reflectors.scatter(block, Z, panel, 0, rows)
    expected = Q + V.astype(float) @ Z.reshape(BLOCK, width)
    np.testing.assert_allclose(
        panel.array.reshape(rows, width), expected, atol=30 * tolerance, rtol=tolerance
    )
