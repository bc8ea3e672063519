"""Where many networks lie in the card's memory, and the tables by which kernels find them.

A layer is row-major; its rows and its columns are padded with zeros to whole vectors of 16
bytes, and no kernel changes the padding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# One row per layer of all networks, as in network.cuh.
(
    OFFSET,
    SHAPE,
    ROWS,
    COLUMNS,
    STRIDE,
    SLOT_BELOW,
    SLOT_ABOVE,
    UNLIKE_BELOW,
    UNLIKE_ABOVE,
    PADDING,
) = range(10)


def tile(dtype: Any) -> int:
    """Return how many numbers of `dtype` a vector of 16 bytes holds."""
    return 16 // np.dtype(dtype).itemsize


def vectors(n: Any, dtype: Any) -> Any:
    """Return how many vectors hold n numbers."""
    return -(-n // tile(dtype))


def pitch(n: int, dtype: Any) -> int:
    """Return the numbers from one row of n to the next in shared memory, as in vectors.cuh."""
    return (vectors(n, dtype) | 1) * tile(dtype)


class Packing:
    """Layers of several networks, all from d inputs to q outputs, end to end in one vector.

    Attributes
    ----------
    widths : list of tuple of int
        ``(d, m_1, …, m_{L-1}, q)`` of every network.
    layers : ndarray of int64, shape (layers of all networks, 10)
        Layers of one shape share a number. The columns before the padding are numbers of layers
        within the network: the nearest below and above of another shape, or its end where there is
        none.
    first : ndarray of int64, shape (networks + 1,)
        Row of `layers` at which each network begins.
    shapes : set of tuple of int
        All (rows, columns) that layers have, each once.
    size, slot_size : int
        Numbers in all weights and in all products kept from sweep to sweep.
    widest : int
        Vectors across the widest boundary between layers.
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
        self.layers = np.stack(
            [
                np.cumsum(sizes) - sizes, shape.ravel(), rows, columns, stride, starts[below],
                starts[below + 1], *unlike, 0 * rows,
            ],
            axis=1,
        ).astype(np.int64)  # fmt: skip
        self.size, self.slot_size = int(sizes.sum()), int(slots.sum())
        self.widest = int(vectors(max(max(n) for n in self.widths), dtype))

    def depth(self, network: int) -> int:
        """Return the number of layers of a network."""
        return len(self.widths[network]) - 1

    def view(self, weights: Any, network: int, layer: int) -> Any:
        """Return a layer of the flat `weights`, input first, as a (rows, columns) view."""
        row = self.layers[self.first[network] + layer]
        offset, rows, columns, stride = row[[OFFSET, ROWS, COLUMNS, STRIDE]]
        padded = -(-int(rows) // tile(self.dtype)) * tile(self.dtype)
        whole = weights[offset : offset + padded * stride].reshape(padded, int(stride))
        return whole[:rows, :columns]


def _unlike(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the nearest layer of another shape below and above every layer, or the end."""
    index = np.arange(len(rows))
    changes = np.flatnonzero((np.diff(rows) != 0) | (np.diff(columns) != 0))
    last, first = np.append(changes, len(rows) - 1), np.append(0, changes + 1)
    run = np.searchsorted(last, index)
    return np.stack([np.maximum(first[run] - 1, 0), np.minimum(last[run] + 1, len(rows) - 1)])
