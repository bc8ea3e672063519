"""Chain products on other people's arrays: plain rows of any length, nothing copied or padded.

The tiles take whole vectors. Of a row whose length is no multiple of them, the last vector is
taken anew from the row's end, overlapping the one before; what overlaps is thrown away (products)
or multiplied by zero (dots). Arrays are found from one base address: a chain of any depth is one
call.
"""

import numpy as np

from fastdln.kernels.cpu.jit import allocating
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.two_pass import (
    FRESH,
    NEAR_TERMS,
    ONE,
    VISIT_ROWS,
    ZERO,
    add_product,
    dot_blocks,
)

# Columns of a table of plain arrays: offset from the base, rows, columns, row stride (numbers),
# and where the product below the layer starts and its padded length.
OFFSET, ROWS, COLUMNS, STRIDE, PRODUCT, WIDTH = range(6)


@allocating
def multiply_down(base, table, layer, X, x0, above, out, q_padded, lane, rank, team):
    """``out = X W`` for one layer W, this member's columns; `out` starts at the layer's PRODUCT."""
    columns, stride, rows = table[layer, COLUMNS], table[layer, STRIDE], table[layer, ROWS]
    w, o, below = table[layer, OFFSET], table[layer, PRODUCT], table[layer, WIDTH]
    begin, end = share(columns // lane, rank, team)
    for k in range(0, rows, NEAR_TERMS):
        count = min(NEAR_TERMS, rows - k)
        add_product(
            X, x0 + k, above, ONE, base, w + k * stride, stride, out, o, below, q_padded, count,
            lane, begin, end, k == 0, ZERO, ZERO,
        )  # fmt: skip
    if rank == team - 1:
        _finish_columns(
            X, x0, above, ONE, base, w, stride, out, o, below, q_padded, rows, columns, lane
        )
        for a in range(q_padded):
            out[o + a * below + columns : o + (a + 1) * below] = 0


@allocating
def _finish_columns(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, columns, lane):
    """Form the columns of ``out = X Y`` past the last whole vector."""
    left = columns % lane
    if left == 0:
        return
    if columns < lane:
        _finish_scalar(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, columns)
        return
    tail = np.empty(rows * lane, dtype=out.dtype)
    add_product(
        X, x0, x_row, x_k, Y, y0 + columns - lane, y_k, tail, ZERO, lane, rows, count, lane, ZERO,
        ONE, FRESH, ZERO, ZERO,
    )  # fmt: skip
    for a in range(rows):
        for j in range(left):
            out[o0 + a * o_row + columns - left + j] = tail[(a + 1) * lane - left + j]


@allocating
def _finish_scalar(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, columns):
    for a in range(rows):
        for j in range(columns):
            total = out.dtype.type(0)
            for k in range(count):
                total += X[x0 + a * x_row + k * x_k] * Y[y0 + k * y_k + j]
            out[o0 + a * o_row + j] = total


@allocating
def multiply_up(base, table, layer, X, x0, out, o0, above, q_padded, lane, rank, team):
    """``out = X Wᵀ`` for one layer W, this member's rows of W; X is as wide as the layer."""
    columns, stride, rows = table[layer, COLUMNS], table[layer, STRIDE], table[layer, ROWS]
    below, whole, left = table[layer, WIDTH], columns // lane, columns % lane
    begin, end = share(rows // 4, rank, team)
    ends = np.zeros(q_padded * lane, dtype=out.dtype)
    if left and whole:
        for a in range(q_padded):
            for j in range(left):
                ends[(a + 1) * lane - left + j] = X[x0 + a * below + columns - left + j]
    more = np.empty(q_padded * VISIT_ROWS, dtype=out.dtype)
    for row in range(4 * begin, 4 * end, VISIT_ROWS):
        n = min(VISIT_ROWS, 4 * end - row)
        w = table[layer, OFFSET] + row * stride
        dot_blocks(X, x0, below, base, w, stride, out, o0 + row, above, q_padded, n, whole, 0, 0)
        if left and whole:
            w += columns - lane
            dot_blocks(ends, 0, lane, base, w, stride, more, 0, n, q_padded, n, 1, 0, 0)
            for a in range(q_padded):
                for r in range(n):
                    out[o0 + a * above + row + r] += more[a * n + r]
    first = 4 * begin if whole == 0 else rows // 4 * 4
    last = 4 * end if rank < team - 1 else rows
    if whole == 0 or rank == team - 1:
        _dot_scalar(base, table, layer, X, x0, out, o0, above, q_padded, first, last)
    if rank == team - 1:
        for a in range(q_padded):
            out[o0 + a * above + rows : o0 + (a + 1) * above] = 0


@allocating
def _dot_scalar(base, table, layer, X, x0, out, o0, above, q_padded, first, last):
    below, columns = table[layer, WIDTH], table[layer, COLUMNS]
    for a in range(q_padded):
        for r in range(first, last):
            w = table[layer, OFFSET] + r * table[layer, STRIDE]
            total = out.dtype.type(0)
            for j in range(columns):
                total += X[x0 + a * below + j] * base[w + j]
            out[o0 + a * above + r] = total


@allocating
def outer(X, x0, above, Y, y0, below, target, table, layer, q, lane, rank, team):
    """``Xᵀ Y`` into one plain array of `table`, this member's rows."""
    rows, columns, stride = table[layer, ROWS], table[layer, COLUMNS], table[layer, STRIDE]
    begin, end = share(rows, rank, team)
    whole = columns // lane
    for row in range(begin, end, VISIT_ROWS):
        n = min(VISIT_ROWS, end - row)
        o = table[layer, OFFSET] + row * stride
        add_product(
            X, x0 + row, ONE, above, Y, y0, below, target, o, stride, n, q, lane, ZERO, whole,
            FRESH, ZERO, ZERO,
        )  # fmt: skip
        _finish_columns(
            X, x0 + row, ONE, above, Y, y0, below, target, o, stride, n, q, columns, lane
        )


@allocating
def products_down(base, table, X, x0, above, products, q_padded, lane, rank, team, meeting):
    """Multiply X by every layer from the last to the first, keeping every product."""
    for layer in range(table.shape[0] - 1, -1, -1):
        multiply_down(base, table, layer, X, x0, above, products, q_padded, lane, rank, team)
        meet(meeting, team)
        X, x0, above = products, table[layer, PRODUCT], table[layer, WIDTH]


@allocating
def gradients_up(base, table, C, D, products, target, slots, q, q_padded, lane, rank, team,
                 meeting):  # fmt: skip
    """Layer gradients from suffix products, upwards: ``B_lᵀ C_{l-1}``, ``C_l = C_{l-1} W_lᵀ``.

    The last layer's gradient is C itself, left in the buffer that the call returns 0 (C) or 1 (D)
    for.
    """
    last, turn = table.shape[0] - 1, 0
    for layer in range(last):
        above = table[layer + 1, WIDTH]
        multiply_up(base, table, layer, C, 0, D, 0, above, q_padded, lane, rank, team)
        outer(products, table[layer + 1, PRODUCT], above, C, 0, table[layer, WIDTH], target, slots,
              layer, q, lane, rank, team)  # fmt: skip
        meet(meeting, team)
        C, D, turn = D, C, 1 - turn
    return turn


@allocating
def products_up(base, table, X, x0, products, q_padded, lane, rank, team, meeting):
    """Multiply X by the transpose of every layer but the last row of the table, upwards.

    The product of each lies where the next row of the table says.
    """
    for layer in range(table.shape[0] - 1):
        o, above = table[layer + 1, PRODUCT], table[layer + 1, WIDTH]
        multiply_up(base, table, layer, X, x0, products, o, above, q_padded, lane, rank, team)
        meet(meeting, team)
        X, x0 = products, o


@allocating
def gradients_down(base, table, E, e0, above, products, below, target, slots, q, q_padded, lane,
                   rank, team, meeting):  # fmt: skip
    """Layer gradients from prefix products, downwards: ``E_lᵀ A_{l-1}ᵀ``, ``E_{l-1} = E_l W_l``.

    `below` receives every E_{l-1} where the layer's PRODUCT says.
    """
    for layer in range(table.shape[0] - 1, -1, -1):
        outer(E, e0, above, products, table[layer, PRODUCT], table[layer, WIDTH], target, slots,
              layer, q, lane, rank, team)  # fmt: skip
        multiply_down(base, table, layer, E, e0, above, below, q_padded, lane, rank, team)
        meet(meeting, team)
        E, e0, above = below, table[layer, PRODUCT], table[layer, WIDTH]
