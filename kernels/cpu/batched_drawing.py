"""Draw normals from several streams in one call: layers of a batch's lanes, and rows of a matrix.

A call from Python takes longer than drawing a small layer, and each call gives up the GIL.
"""

import numpy as np

from fastdln.kernels.cpu.jit import kernel
from fastdln.kernels.cpu.random import fill_normals

# Columns of the table of layers to draw: the first vector, the rows and columns, the strides of
# both in vectors, and the lane.
FIRST, ROWS, COLUMNS, ROW, COLUMN, LANE = range(6)


@kernel
def draw_lanes(
    weights: np.ndarray,
    lanes: int,
    addresses: np.ndarray,
    places: np.ndarray,
    scales: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Write layers of independent normals, times a scale, into the lanes of a batch.

    Parameters
    ----------
    weights : ndarray, flat
        Vectors of `lanes` elements.
    lanes : int
    addresses : ndarray of uint64, shape (count, 2)
        Key and stream of every layer.
    places : ndarray of int64, shape (count, 6)
        Where each layer is written, in the columns above.
    scales : ndarray of the weights' dtype, shape (count,)
    scratch : ndarray of the weights' dtype
        As many elements as the largest layer.
    """
    for i in range(addresses.shape[0]):
        rows, columns = places[i, ROWS], places[i, COLUMNS]
        drawn = scratch[: rows * columns]
        fill_normals(addresses[i, 0], addresses[i, 1], np.uint64(0), drawn)
        first = places[i, FIRST] * lanes + places[i, LANE]
        row, column = places[i, ROW] * lanes, places[i, COLUMN] * lanes
        for a in range(rows):
            for b in range(columns):
                target = first + a * row + b * column
                weights[np.uintp(target)] = scales[i] * drawn[np.uintp(a * columns + b)]


@kernel
def fill_streams(key: np.uint64, stream: np.uint64, out: np.ndarray) -> None:
    """Fill row i of the matrix `out` with the first normals of stream number `stream` + i."""
    for i in range(out.shape[0]):
        fill_normals(key, stream + np.uint64(i), np.uint64(0), out[i])
