"""Matrix products by whole tiles of 4 rows, at offsets in arithmetic progression.

Every sum is added in order, one fused multiply-add per term, so that results depend neither on the
vector width nor on the division of the work.
"""

from typing import NamedTuple, cast

import numpy as np

from .groups import Operand
from .jit import inlined, kernel
from .tiles import WIDE, lanes, product_tile


def index(value: int) -> int:
    """Return a NumPy scalar: Numba would compile a specialisation for each literal argument."""
    return cast(int, np.intp(value))


ZERO = index(0)
ONE = index(1)
TILE = index(4)
_LANES_32 = lanes(np.float32)
_LANES_64 = lanes(np.float64)


class Left(NamedTuple):
    """Left factors of `multiply_tiles`: tile t's X[a, k] is at start + t·tile + a·row + k·term."""

    array: np.ndarray
    start: int
    tile: int
    row: int
    term: int


class Right(NamedTuple):
    """Right factors of `multiply_tiles`: tile t's row Y[k, :] is at start + t·tile + k·term."""

    array: np.ndarray
    start: int
    tile: int
    term: int


class Sums(NamedTuple):
    """Results of `multiply_tiles`: row a < 4 of tile t is at start + (t + a/4)·tile."""

    array: np.ndarray
    start: int
    tile: int


@inlined
def clear(out: np.ndarray, begin: int, count: int) -> None:
    """Set ``out[begin : begin + count]`` to zero: a slice assignment takes longer to compile."""
    for i in range(np.uintp(count)):  # unsigned: checks for negative indices cost as much again
        out[np.uintp(begin) + np.uintp(i)] = 0.0


@inlined
def lanes_of(array: np.ndarray) -> int:
    """Return the number of elements of a float array in one vector register."""
    return _LANES_32 if array.itemsize == 4 else _LANES_64


@inlined
def padded(n: int) -> int:
    """Return n rounded up to whole tiles."""
    return (n + TILE - 1) // TILE * TILE


@kernel
def multiply_tiles(
    tiles: int, wide: int, X: Left, Y: Right, out: Sums, count: int, less: int
) -> None:
    """For each tile t add to four rows of out: ``out[a, :] += Σ_k X[a, k] Y[k, :]``.

    Rows have `wide` vectors; the sums of tile t have ``count − t·less`` terms.
    """
    width = lanes_of(out.array)
    v = 0
    while v < wide:
        y, o = Y.start + v * width, out.start + v * width
        step = min(wide - v, WIDE)
        for t in range(tiles):
            A = Operand(X.array, X.start + t * X.tile, X.row, X.term)
            B = Operand(Y.array, y + t * Y.tile, Y.term, ONE)
            C = Operand(out.array, o + t * out.tile, out.tile // 4, ONE)
            terms, fetched = count - t * less, B.start
            # The tile's size is a compile-time constant, hence one call per size.
            if step == 4:
                product_tile(4, 4, A, B, C, terms, False, fetched)
            elif step == 3:
                product_tile(4, 3, A, B, C, terms, False, fetched)
            elif step == 2:
                product_tile(4, 2, A, B, C, terms, False, fetched)
            else:
                product_tile(4, 1, A, B, C, terms, False, fetched)
        v += step
