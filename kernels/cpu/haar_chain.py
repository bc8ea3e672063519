"""Multiply a panel of columns by a chain of square Haar matrices, none of which is formed.

A block of reflectors is drawn, applied and forgotten: 32 columns of an n-row frame are all that is
held of a matrix, and with a panel of 32 columns they fit the second-level cache up to n = 1000. The
matrices are those that `haar` forms of the same streams, to rounding.
"""

import numpy as np

from . import reflectors as layout
from .haar import Reflectors, Scratch, prepare_block
from .jit import kernel
from .random import Source
from .reflectors import BLOCK, NO, Panel, ReflectorBlock, gather, scatter, times_minus_t
from .tile_products import ZERO, clear, lanes_of


def work_size(n: int, stride: int) -> int:
    """Return the elements of ``Scratch.work`` that `multiply_chain` needs for this row stride."""
    return max(int(layout.work_size(n)), 2 * int(BLOCK) * stride)


@kernel
def multiply_chain(
    source: Source, n: int, block: Reflectors, scratch: Scratch, out: np.ndarray
) -> None:
    """Set ``out[k + 1] = Q_k out[k]`` for all k from 0 on.

    Q_k is the n × n Haar matrix of stream + k. `out` is of shape (count + 1, padded(n), stride),
    its rows from n on zero, stride a whole number of vectors. `block` has room for one block of
    reflectors: ``padded(n)·BLOCK`` elements of V, BLOCK² of minus_T, n of signs. ``scratch.panels``
    is not used.
    """
    count, rows, stride = out.shape
    size = rows * stride
    flat = out.reshape(count * size)
    wide, products = stride // lanes_of(out), BLOCK * stride
    Z, W = scratch.work[:products], scratch.work[products : 2 * products]
    for k in range(1, count):
        frame = Source(source.key, source.stream + np.uint64(k - 1))
        start = k * size
        for i in range(np.uintp(size)):
            flat[np.uintp(start) + np.uintp(i)] = flat[np.uintp(start - size) + np.uintp(i)]
        Q = Panel(flat, start, stride, wide)
        for number in range((n - 1) // BLOCK, -1, -1):
            j = number * BLOCK
            wy = ReflectorBlock(block.V, ZERO, n, j, min(BLOCK, n - j))
            prepare_block(frame, ZERO, wy, block, scratch)
            for i in range(j, j + wy.size):
                sign, row = block.signs[i], start + i * stride
                for c in range(np.uintp(stride)):
                    flat[np.uintp(row) + np.uintp(c)] *= sign
            clear(Z, ZERO, products)
            gather(wy, Q, j, n, Z)
            times_minus_t(block.minus_T, ZERO, wy.size, NO, Panel(Z, ZERO, stride, wide), W)
            scatter(wy, W, Q, j, rows)
