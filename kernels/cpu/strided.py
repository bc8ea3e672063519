"""Chain products on the caller's arrays: rows of any length, neither copied nor padded.

The tiles take whole vectors. If the length of a row is not a multiple of the vector length, the
last vector ends at the row's end and overlaps the vector before; the overlapping elements are
discarded (products) or multiplied by zero (dot products). All arrays are addressed from one base,
so that a chain of any depth is one call.
"""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.gemm import NO_PREFETCH, ONE, OVERWRITE, ZERO, add_product, dot_blocks
from fastdln.kernels.cpu.groups import Extent, Member, Operand
from fastdln.kernels.cpu.jit import allocating
from fastdln.kernels.cpu.team import partition, wait
from fastdln.kernels.cpu.two_pass import BLOCK_ROWS, NEAR_TERMS

# Columns of a table of arrays: offset from the base, rows, columns and row stride, in elements. A
# table of layers also has the offset of the product below the layer and its padded width.
OFFSET, ROWS, COLUMNS, STRIDE, PRODUCT, WIDTH = range(6)


class StridedArrays(NamedTuple):
    """Matrices with contiguous rows, each at its own address.

    Attributes
    ----------
    base : ndarray, flat
        Memory from the lowest to the highest element of all matrices.
    table : ndarray of int64, shape (number of matrices, 4)
        OFFSET, ROWS, COLUMNS and STRIDE of each matrix.
    """

    base: np.ndarray
    table: np.ndarray


class StridedChain(NamedTuple):
    """Layers of a chain, input first, and the layout of their products.

    Attributes
    ----------
    base, table
        As in `StridedArrays`; the table, of shape (depth, 6), also has PRODUCT and WIDTH.
    q, q_padded : int
        Rows of every product, and rows in memory.
    lane : int
        Elements of a vector register: its SIMD lanes.
    """

    base: np.ndarray
    table: np.ndarray
    q: int
    q_padded: int
    lane: int


@allocating
def multiply_down(
    chain: StridedChain, layer: int, X: Operand, out: np.ndarray, member: Member
) -> None:
    """``out = X W`` for one layer W, this member's columns; `out` starts at the layer's PRODUCT."""
    row, lane = chain.table[layer], chain.lane
    columns, rows, q = row[COLUMNS], row[ROWS], chain.q_padded
    W = Operand(chain.base, row[OFFSET], row[STRIDE], ONE)
    target = Operand(out, row[PRODUCT], row[WIDTH], ONE)
    begin, end = partition(columns // lane, member.rank, member.team)
    for k in range(0, rows, NEAR_TERMS):
        add_product(
            Operand(X.data, X.start + k, X.row, X.column),
            Operand(W.data, W.start + k * W.row, W.row, ONE),
            target,
            Extent(q, min(NEAR_TERMS, rows - k), begin, end, lane),
            k == 0,
            NO_PREFETCH,
        )
    if member.rank == member.team - 1:
        _finish_columns(X, W, target, q, rows, columns, lane)
        for a in range(q):
            o = target.start + a * target.row
            out[o + columns : o + target.row] = 0


@allocating
def _finish_columns(
    X: Operand, Y: Operand, out: Operand, rows: int, terms: int, columns: int, lane: int
) -> None:
    """Form the columns of ``out = X Y`` past the last whole vector."""
    left = columns % lane
    if left == 0:
        return
    if columns < lane:
        _finish_scalar(X, Y, out, rows, terms, columns)
        return
    tail = np.empty(rows * lane, dtype=out.data.dtype)
    add_product(
        X,
        Operand(Y.data, Y.start + columns - lane, Y.row, ONE),
        Operand(tail, ZERO, lane, ONE),
        Extent(rows, terms, ZERO, ONE, lane),
        OVERWRITE,
        NO_PREFETCH,
    )
    for a in range(rows):
        for j in range(left):
            tail_end = tail[(a + 1) * lane - left + j]
            out.data[out.start + a * out.row + columns - left + j] = tail_end


@allocating
def _finish_scalar(
    X: Operand, Y: Operand, out: Operand, rows: int, terms: int, columns: int
) -> None:
    """Form ``out = X Y`` with fewer columns than a vector has elements, element by element."""
    for a in range(rows):
        for j in range(columns):
            total = out.data.dtype.type(0)
            for k in range(terms):
                x = X.data[X.start + a * X.row + k * X.column]
                total += x * Y.data[Y.start + k * Y.row + j]
            out.data[out.start + a * out.row + j] = total


@allocating
def multiply_up(chain: StridedChain, layer: int, X: Operand, out: Operand, member: Member) -> None:
    """``out = X Wᵀ`` for one layer W, this member's rows of W; X is as wide as the layer."""
    table, lane, q = chain.table, chain.lane, chain.q_padded
    rows, columns, stride = table[layer, ROWS], table[layer, COLUMNS], table[layer, STRIDE]
    whole, left = columns // lane, columns % lane
    begin, end = partition(rows // 4, member.rank, member.team)
    ends = np.zeros(q * lane, dtype=out.data.dtype)
    if left and whole:
        for a in range(q):
            for j in range(left):
                x = X.data[X.start + a * X.row + columns - left + j]
                ends[(a + 1) * lane - left + j] = x
    more = np.empty(q * BLOCK_ROWS, dtype=out.data.dtype)
    for row in range(4 * begin, 4 * end, BLOCK_ROWS):
        n = min(BLOCK_ROWS, 4 * end - row)
        w = table[layer, OFFSET] + row * stride
        W, target = Operand(chain.base, w, stride, ONE), out.start + row
        dot_blocks(X, W, Operand(out.data, target, out.row, ONE), q, n, whole, NO_PREFETCH)
        if left and whole:
            last = Operand(chain.base, w + columns - lane, stride, ONE)
            last_columns = Operand(ends, ZERO, lane, ONE)
            dot_blocks(last_columns, last, Operand(more, ZERO, n, ONE), q, n, ONE, NO_PREFETCH)
            for a in range(q):
                for r in range(n):
                    out.data[target + a * out.row + r] += more[a * n + r]
    first = 4 * begin if whole == 0 else rows // 4 * 4
    stop = 4 * end if member.rank < member.team - 1 else rows
    if whole == 0 or member.rank == member.team - 1:
        _dot_scalar(chain, layer, X, out, first, stop)
    if member.rank == member.team - 1:
        for a in range(q):
            o = out.start + a * out.row
            out.data[o + rows : o + out.row] = 0


@allocating
def _dot_scalar(
    chain: StridedChain, layer: int, X: Operand, out: Operand, first: int, stop: int
) -> None:
    """``out = X Wᵀ`` for rows first ≤ r < stop of one layer W, element by element."""
    columns = chain.table[layer, COLUMNS]
    for a in range(chain.q_padded):
        for r in range(first, stop):
            w = chain.table[layer, OFFSET] + r * chain.table[layer, STRIDE]
            total = out.data.dtype.type(0)
            for j in range(columns):
                total += X.data[X.start + a * X.row + j] * chain.base[w + j]
            out.data[out.start + a * out.row + r] = total


@allocating
def outer(
    X: Operand, Y: Operand, target: StridedArrays, layer: int, q: int, lane: int, member: Member
) -> None:
    """Write this member's rows of ``X Y``, sums of q terms, to array `layer` of `target`."""
    rows, columns = target.table[layer, ROWS], target.table[layer, COLUMNS]
    stride = target.table[layer, STRIDE]
    begin, end = partition(rows, member.rank, member.team)
    for row in range(begin, end, BLOCK_ROWS):
        n = min(BLOCK_ROWS, end - row)
        x = Operand(X.data, X.start + row * X.row, X.row, X.column)
        out = Operand(target.base, target.table[layer, OFFSET] + row * stride, stride, ONE)
        add_product(x, Y, out, Extent(n, q, ZERO, columns // lane, lane), OVERWRITE, NO_PREFETCH)
        _finish_columns(x, Y, out, n, q, columns, lane)


@allocating
def products_down(chain: StridedChain, X: Operand, products: np.ndarray, member: Member) -> None:
    """Multiply X by every layer from the last to the first, and store every product."""
    for layer in range(chain.table.shape[0] - 1, -1, -1):
        multiply_down(chain, layer, X, products, member)
        wait(member.barrier, member.team)
        X = Operand(products, chain.table[layer, PRODUCT], chain.table[layer, WIDTH], ONE)


@allocating
def gradients_up(
    chain: StridedChain,
    C: np.ndarray,
    D: np.ndarray,
    products: np.ndarray,
    target: StridedArrays,
    member: Member,
) -> int:
    """Form layer gradients upwards: ``B_lᵀ C_{l-1}`` with ``C_l = C_{l-1} W_lᵀ``.

    The gradient of the last layer is the last co-state, which is in C if the call returns 0 and in
    D if it returns 1.
    """
    table, last, swapped = chain.table, chain.table.shape[0] - 1, 0
    for layer in range(last):
        above = table[layer + 1, WIDTH]
        costate = Operand(C, ZERO, table[layer, WIDTH], ONE)
        multiply_up(chain, layer, costate, Operand(D, ZERO, above, ONE), member)
        transpose = Operand(products, table[layer + 1, PRODUCT], ONE, above)
        outer(transpose, costate, target, layer, chain.q, chain.lane, member)
        wait(member.barrier, member.team)
        C, D, swapped = D, C, 1 - swapped
    return swapped


@allocating
def products_up(chain: StridedChain, X: Operand, products: np.ndarray, member: Member) -> None:
    """Multiply X by the transpose of every layer but the last row of the table, upwards.

    Each product starts at PRODUCT of the next row of the table.
    """
    for layer in range(chain.table.shape[0] - 1):
        start, above = chain.table[layer + 1, PRODUCT], chain.table[layer + 1, WIDTH]
        out = Operand(products, start, above, ONE)
        multiply_up(chain, layer, X, out, member)
        wait(member.barrier, member.team)
        X = out


@allocating
def gradients_down(
    chain: StridedChain,
    E: Operand,
    products: np.ndarray,
    below: np.ndarray,
    target: StridedArrays,
    member: Member,
) -> None:
    """Form layer gradients downwards: ``E_lᵀ A_{l-1}ᵀ`` with ``E_{l-1} = E_l W_l``.

    `below` receives every E_{l-1} at the layer's PRODUCT.
    """
    for layer in range(chain.table.shape[0] - 1, -1, -1):
        start, width = chain.table[layer, PRODUCT], chain.table[layer, WIDTH]
        transpose = Operand(E.data, E.start, ONE, E.row)
        prefix = Operand(products, start, width, ONE)
        outer(transpose, prefix, target, layer, chain.q, chain.lane, member)
        multiply_down(chain, layer, E, below, member)
        wait(member.barrier, member.team)
        E = Operand(below, start, width, ONE)
