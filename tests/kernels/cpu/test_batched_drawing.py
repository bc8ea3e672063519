"""Layers drawn into lanes, and rows of normals, are those of `rng.standard_normal`."""

import numpy as np
import pytest

from fastdln.kernels.cpu.batched_drawing import draw_lanes, fill_streams
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import standard_normal


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 31)])
def test_layers_are_written_by_rows_or_by_columns(shape, dtype):
    n, (rows, columns) = lanes(dtype), shape
    size = rows * columns
    weights = np.full(2 * size * n, 7, dtype)
    places = np.array([[0, rows, columns, columns, 1, 1], [size, rows, columns, 1, rows, n - 1]])
    addresses = np.array([[5, 6], [7, 2**63]], np.uint64)
    scales = np.array([0.3, 1.1]).astype(dtype)
    draw_lanes(weights, n, addresses, places, scales, np.empty(size, dtype))
    first, second = weights.reshape(2, size, n)
    drawn = scales[0] * standard_normal(5, 6, shape, dtype)
    np.testing.assert_array_equal(first[:, 1].reshape(shape), drawn)
    drawn = scales[1] * standard_normal(7, 2**63, shape, dtype)
    np.testing.assert_array_equal(second[:, n - 1].reshape(columns, rows).T, drawn)
    assert (first[:, 2:] == 7).all()


def test_rows_are_consecutive_streams():
    out = np.empty((4, 7))
    fill_streams(np.uint64(3), np.uint64(9), out)
    np.testing.assert_array_equal(out, [standard_normal(3, 9 + i, 7) for i in range(4)])
