"""Bases of the trained subspaces, carried from the first hidden space to all later ones.

With ``O_i = Ŵ_i(0) ··· Ŵ_2(0)`` and Q a basis of the subspace of the first hidden space, that of
hidden space i is spanned by ``P_i = O_i Q``. Haar matrices are applied without being formed, which
takes a small part of the time of drawing the layers themselves, and P is kept at about √L of the L
hidden layers, so that a layer anywhere is reached in √L products.
"""

import math
import threading

import numpy as np

from fastdln.initializers.layers import Draw
from fastdln.kernels.cpu.haar import Reflectors, Scratch
from fastdln.kernels.cpu.haar_chain import multiply_chain, work_size
from fastdln.kernels.cpu.layout import aligned_zeros
from fastdln.kernels.cpu.random import Source
from fastdln.kernels.cpu.reflectors import BLOCK
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import Stream, stream_id
from fastdln.utils import threads

# Fewest columns of a thread's part of a product: every thread draws the reflectors for itself,
# which takes as long as applying them to about this many columns.
PART_COLUMNS = 64


class CarriedBases:
    """``P_0 … P_h`` of a drawn network whose h hidden layers have equal widths.

    P_i is always computed by the same products in the same order, so that its bits do not depend
    on the order of requests. Several threads may use one object.

    Parameters
    ----------
    draw : Draw
    Q : ndarray of float64, shape (m, k)
        P_0, orthonormal columns.
    """

    def __init__(self, draw: Draw, Q: np.ndarray):
        self.Q = Q
        self.hidden = draw.depth - 2
        self.step = max(1, math.isqrt(self.hidden))
        self._draw = draw
        self._kept = [Q]
        self._lock = threading.Lock()

    def block_of(self, index: int) -> int:
        """Return the number of the block that has P_{index − 1} and P_index."""
        return max(index - 1, 0) // self.step

    def block(self, number: int) -> np.ndarray:
        """Return ``P_i`` for i from number·step on, shape (count, m, k), count at most step + 1.

        The last of a block is the first of the next, and is kept.
        """
        with self._lock:
            while True:
                at = min(number, len(self._kept) - 1)
                count = min(self.step, self.hidden - at * self.step)
                block = carried(self._draw, self._kept[at], at * self.step, count)
                if at == len(self._kept) - 1 and count == self.step:
                    self._kept.append(block[-1].copy())
                if at == number:
                    return block


def carried(draw: Draw, X: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return ``[X, H X, H' H X, …]``, shape (count + 1, m, k), for `count` hidden layers.

    They are layers first + 1, …, first + count of a network with equal hidden widths, divided by
    its gain; layer 0 is the first.
    """
    if draw.init != "orthogonal":  # hidden layers are multiples of the identity
        return np.broadcast_to(X, (count + 1, *X.shape))
    parts = max(1, min(threads.available(), X.shape[1] // PART_COLUMNS))
    edges = [X.shape[1] * i // parts for i in range(parts + 1)]
    done = threads.spread(
        lambda a, b: _multiplied(draw.key, X[:, a:b], first, count),
        list(zip(edges[:-1], edges[1:], strict=True)),
    )
    return done[0] if parts == 1 else np.concatenate(done, axis=2)


def _multiplied(key: int, X: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return X and its products by the Haar matrices of hidden layers, on this thread."""
    n, k = X.shape
    rows, lane = int(padded(n)), lanes(np.float64)
    stride = -(-k // lane) * lane
    out = aligned_zeros((count + 1) * rows * stride, np.float64).reshape(count + 1, rows, stride)
    out[0, :n, :k] = X
    block = int(BLOCK)
    multiply_chain(
        Source(np.uint64(key), np.uint64(stream_id(Stream.HIDDEN_LAYER, first))),
        n,
        Reflectors(
            aligned_zeros(rows * block, np.float64),
            aligned_zeros(block * block, np.float64),
            np.empty(n),
        ),
        Scratch(
            np.empty(2 * block),
            np.empty(block, np.intp),
            aligned_zeros(work_size(n, stride), np.float64),
            np.empty(0),
        ),
        out,
    )
    return out[:, :n, :k]
