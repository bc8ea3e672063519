"""Two matrix products of any padded size, cut into register tiles: ``X Y`` and ``X Yᵀ``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdln.kernels.cpu.groups import Extent, Operand, Prefetch
from fastdln.kernels.cpu.jit import inlined, kernel, part
from fastdln.kernels.cpu.tiles import WIDE, dot_tile, product_tile

# Bytes of weights above which kernels assume that they are read from memory, not from cache.
FAR = 24 * 2**20
# NumPy scalars: Numba would compile a second specialisation of a kernel for each literal argument.
# `Any`, because they are passed as int.
ZERO: Any
ONE: Any
TWO: Any
FOUR: Any
ZERO, ONE, TWO, FOUR = np.intp(0), np.intp(1), np.intp(2), np.intp(4)
# Whether a product is written, or added to its destination. Clearing first was slow: a loop over a
# few hundred elements becomes a call of memset, which took 40% of pass 1 at width 26.
OVERWRITE, ACCUMULATE = np.bool_(True), np.bool_(False)
NO_PREFETCH = Prefetch(ZERO, ZERO)


@inlined
def strip_rows(left: int, far: bool) -> int:
    """Return the number of rows, 5, 4, 2 or 1, of the next strip when `left` rows remain.

    Strips have five rows where strips of five and four cover the remaining rows: twenty
    accumulators keep the processor's two multiply-add units busy, sixteen do not quite (updating a
    layer of 100 rows by strips of four took a quarter longer). For rows read from memory strips of
    four are faster.
    """
    after = left - 5
    if after < 0 or (far and left % 4 == 0):
        return 4 if left >= 4 else (2 if left >= 2 else 1)
    if after >= 12 or after == 0 or after == 4 or after == 5 or 8 <= after <= 10:
        return 5
    return 4


def _panel(wide: int) -> Callable[..., None]:
    """Return the kernel that adds a product to all rows of `wide` vectors."""

    @part
    def panel(
        X: Operand, Y: Operand, out: Operand, extent: Extent, overwrite: bool, prefetch: Prefetch
    ) -> None:
        a, far, strip = 0, out.data.nbytes > FAR, prefetch.strip
        while a < extent.rows:
            n = strip_rows(extent.rows - a, far)
            x = Operand(X.data, X.start + a * X.row, X.row, X.column)
            o = Operand(out.data, out.start + a * out.row, out.row, ONE)
            f = Y.start + prefetch.distance + strip % WIDE * extent.lane
            if n == 5:
                product_tile(5, wide, x, Y, o, extent.terms, overwrite, f)
            elif n == 4:
                product_tile(4, wide, x, Y, o, extent.terms, overwrite, f)
            elif n == 2:
                product_tile(2, wide, x, Y, o, extent.terms, overwrite, f)
            else:
                product_tile(1, wide, x, Y, o, extent.terms, overwrite, f)
            a += n
            strip += 1

    return panel


_panel1, _panel2, _panel3, _panel_wide = (_panel(n) for n in (1, 2, 3, WIDE))


@kernel
def add_product(
    X: Operand, Y: Operand, out: Operand, extent: Extent, overwrite: bool, prefetch: Prefetch
) -> None:
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for the rows a, terms k and vectors v of `extent`.

    Where `overwrite`, the product replaces the contents of `out`. Strip number i of rows of X
    prefetches vector ``(strip + i) mod WIDE`` of the data `distance` elements after each tile of Y:
    four strips prefetch as much as they read. Prefetching in bursts, before each tile, was a
    quarter slower.

    All rows are multiplied by a tile's columns before the next tile, so that the tile's part of Y
    stays in the first-level cache.
    """
    v, lane = extent.begin, extent.lane
    while v + WIDE <= extent.end:
        y = Operand(Y.data, Y.start + v * lane, Y.row, ONE)
        o = Operand(out.data, out.start + v * lane, out.row, ONE)
        _panel_wide(X, y, o, extent, overwrite, prefetch)
        v += WIDE
    y = Operand(Y.data, Y.start + v * lane, Y.row, ONE)
    o = Operand(out.data, out.start + v * lane, out.row, ONE)
    if v + 3 == extent.end:
        _panel3(X, y, o, extent, overwrite, prefetch)
    elif v + 2 == extent.end:
        _panel2(X, y, o, extent, overwrite, prefetch)
    elif v < extent.end:
        _panel1(X, y, o, extent, overwrite, prefetch)


@kernel
def dot_blocks(
    X: Operand, Y: Operand, out: Operand, rows: int, others: int, vectors: int, prefetch: Prefetch
) -> None:
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for any (padded) `rows` and `others`, a multiple of 4.

    Strip number i of rows of X prefetches row ``4 j + (strip + i) mod 4`` of the data `distance`
    elements after Y, for all j: four strips prefetch as many rows as they read.
    """
    a, strip = 0, prefetch.strip
    while a < rows:
        n = strip_rows(rows - a, False)
        x = Operand(X.data, X.start + a * X.row, X.row, ONE)
        next_row = Y.start + prefetch.distance + strip % 4 * Y.row
        for r in range(0, others, 4):
            y = Operand(Y.data, Y.start + r * Y.row, Y.row, ONE)
            o = Operand(out.data, out.start + a * out.row + r, out.row, ONE)
            f = next_row + r * Y.row
            if n == 5:
                dot_tile(5, x, y, o, vectors, f)
            elif n == 4:
                dot_tile(4, x, y, o, vectors, f)
            elif n == 2:
                dot_tile(2, x, y, o, vectors, f)
            else:
                dot_tile(1, x, y, o, vectors, f)
        a += n
        strip += 1
