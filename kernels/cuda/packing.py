"""Pack many networks into arrays in device memory, with a table of their layers for the kernels.

A layer is row-major; its rows and columns are padded with zeros to whole vectors of 16 bytes, and
no kernel changes the padding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdln.kernels.cuda.declarations import LayerColumn


def tile(dtype: Any) -> int:
    """Return the number of elements of `dtype` in a vector of 16 bytes."""
    return 16 // np.dtype(dtype).itemsize


def vectors(n: Any, dtype: Any) -> Any:
    """Return the number of vectors that hold n elements."""
    return -(-n // tile(dtype))


def pitch(n: int, dtype: Any) -> int:
    """Return the stride, in elements, of rows of n in shared memory; see ``vectors.cuh``."""
    return (vectors(n, dtype) | 1) * tile(dtype)


class Packing:
    """Layers of several networks with d inputs and q outputs, contiguous in one vector.

    Attributes
    ----------
    widths : list of tuple of int
        ``(d, m_1, …, m_{L-1}, q)`` of every network.
    layers : ndarray of int64, shape (layers of all networks, len(LayerColumn))
        Offset in the weights, index of the shape, rows, columns, stride, offsets of the slots below
        and above, and the indices within the network of the nearest layers below and above that
        have another shape (the network's end if there is none).
    first : ndarray of int64, shape (networks + 1,)
        Row of `layers` at which each network begins.
    shapes : set of tuple of int
        All distinct (rows, columns) of layers.
    size, slot_size : int
        Elements of all weights, and of all products stored between passes.
    widest : int
        Vectors of the largest width, inputs and outputs included.
    """

    def __init__(self, widths: Sequence[tuple[int, ...]], dtype: Any):
        self.widths = [tuple(int(w) for w in network) for network in widths]
        self.dtype = np.dtype(dtype)
        ends = {(network[0], network[-1]) for network in self.widths}
        if len(ends) != 1 or min(map(len, self.widths)) < 2:
            raise ValueError(f"all networks must have the same inputs and outputs, not {ends}")
        self.d, self.q = ends.pop()
        unit = tile(dtype)
        boundaries = [np.asarray(network, dtype=np.int64) for network in self.widths]
        columns = np.concatenate([n[:-1] for n in boundaries])
        rows = np.concatenate([n[1:] for n in boundaries])
        stride = vectors(columns, dtype) * unit
        sizes = vectors(rows, dtype) * unit * stride
        # Boundary 0 … L of a network has one slot each: L + 1 slots for L layers.
        slot = vectors(max(self.d, self.q), dtype) * unit
        padded = [vectors(n, dtype) * unit * slot for n in boundaries]
        slots = np.concatenate(padded)
        starts = np.cumsum(slots) - slots
        self.first = np.cumsum([0, *(len(n) - 1 for n in boundaries)]).astype(np.int64)
        network = np.repeat(np.arange(len(boundaries)), np.diff(self.first))
        below = np.arange(len(columns)) + network
        unlike = np.concatenate([_unlike(n[1:], n[:-1]) for n in boundaries], axis=1)
        pairs, shape = np.unique(np.stack([rows, columns]), axis=1, return_inverse=True)
        self.shapes = set(map(tuple, pairs.T.tolist()))
        values = {
            LayerColumn.OFFSET: np.cumsum(sizes) - sizes,
            LayerColumn.SHAPE: shape.ravel(),
            LayerColumn.ROWS: rows,
            LayerColumn.COLUMNS: columns,
            LayerColumn.STRIDE: stride,
            LayerColumn.SLOT_BELOW: starts[below],
            LayerColumn.SLOT_ABOVE: starts[below + 1],
            LayerColumn.UNLIKE_BELOW: unlike[0],
            LayerColumn.UNLIKE_ABOVE: unlike[1],
        }
        self.layers = np.zeros((len(rows), len(LayerColumn)), np.int64)
        for column, entries in values.items():
            self.layers[:, column] = entries
        self.size, self.slot_size = int(sizes.sum()), int(slots.sum())
        self.widest = int(vectors(max(max(n) for n in self.widths), dtype))

    def depth(self, network: int) -> int:
        """Return the number of layers of a network."""
        return len(self.widths[network]) - 1

    def view(self, weights: Any, network: int, layer: int) -> Any:
        """Return a layer of the flat `weights`, input first, as a (rows, columns) view."""
        row = self.layers[self.first[network] + layer]
        offset, rows, columns, stride = (
            int(row[column])
            for column in (
                LayerColumn.OFFSET,
                LayerColumn.ROWS,
                LayerColumn.COLUMNS,
                LayerColumn.STRIDE,
            )
        )
        padded = int(vectors(rows, self.dtype)) * tile(self.dtype)
        whole = weights[offset : offset + padded * stride].reshape(padded, stride)
        return whole[:rows, :columns]


def _unlike(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return, for every layer, the nearest layer of another shape below and above, or the end."""
    index = np.arange(len(rows))
    changes = np.flatnonzero((np.diff(rows) != 0) | (np.diff(columns) != 0))
    last, first = np.append(changes, len(rows) - 1), np.append(0, changes + 1)
    run = np.searchsorted(last, index)
    return np.stack([np.maximum(first[run] - 1, 0), np.minimum(last[run] + 1, len(rows) - 1)])
