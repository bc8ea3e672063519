"""The two-pass step: suffix products down the chain, then gradients and updates up it.

With ``M = W_L ··· W_1``, suffix products ``B_l = W_L ··· W_{l+1}`` and ``G = ∂ℓ/∂M``, the gradient
of layer l is ``B_lᵀ C_{l-1}``, where ``C_0 = G`` and ``C_l = C_{l-1} W_lᵀ``. Pass 1 reads every
layer once and leaves all suffix products; pass 2 reads and writes every layer once, updating it
in the same visit that forms C. Every product has q rows, q the rows of M.

Work is split so that every number is summed in the same order for any team: pass 1 by columns of
a layer, pass 2 by its rows. The same bits come out for any number of threads.
"""

import numpy as np

from .jit import kernel, part
from .layout import OFFSET, PRODUCT, ROWS, STRIDE
from .team import meet, share
from .tiles import WIDE, dot_tile, fetch, product_tile

# Bytes of weights above which they are taken to come from memory rather than from cache.
FAR = 24 * 2**20
# Numba compiles a kernel anew for every literal that it is called with; for these it does not.
ZERO, ONE, FOUR = np.intp(0), np.intp(1), np.intp(4)
# Rows of a layer that one call adds to a product. From cache 128 beat 16 by a fifth to a third
# (fewer calls); from memory 16, fetched one block ahead, beat no fetching by a third.
NEAR_TERMS, FAR_TERMS = 128, 16
# Bytes of a layer that pass 2 visits at a time, and most rows: against visits of 4 rows, 64 made
# pass 2 of widths 100 to 300 1.8 to 2.5 times as fast, for a call costs as much as its work on
# 4 rows of 100, and every visit reads B and C anew.
VISIT_BYTES, VISIT_ROWS = 2**18, 64


@part
def strip_rows(left):
    """Return how many of `left` (padded) rows the next strip takes: 5, 4, 2 or 1."""
    if left >= 5 and left % 4 != 0:
        return 5
    if left >= 4:
        return 4
    return left


def _panel(wide):
    """Return the kernel that adds a product to all rows of `wide` vectors."""

    @part
    def panel(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count):
        a = 0
        while a < rows:
            n = strip_rows(rows - a)
            x, o = x0 + a * x_row, o0 + a * o_row
            if n == 5:
                product_tile(5, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count)
            elif n == 4:
                product_tile(4, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count)
            elif n == 2:
                product_tile(2, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count)
            else:
                product_tile(1, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count)
            a += n

    return panel


_panel1, _panel2, _panel3, _panel_wide = (_panel(n) for n in (1, 2, 3, WIDE))


@kernel
def add_product(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, begin, end):
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for any (padded) `rows`, vectors ``begin ≤ v < end``.

    All rows visit a tile's columns before the next tile: that part of Y stays in the first-level
    cache meanwhile.
    """
    v = begin
    while v + WIDE <= end:
        y, o = y0 + v * lane, o0 + v * lane
        _panel_wide(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count)
        v += WIDE
    y, o = y0 + v * lane, o0 + v * lane
    if v + 3 == end:
        _panel3(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count)
    elif v + 2 == end:
        _panel2(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count)
    elif v < end:
        _panel1(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count)


@part
def add_product_fetching(
    X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, begin, end
):
    """Do what `add_product` does while the `count` rows of Y that follow come from memory."""
    v = begin
    while v < end:
        wide = min(WIDE, end - v)
        for k in range(count, 2 * count):
            for j in range(v, v + wide):
                fetch(Y, y0 + k * y_k + j * lane)
        add_product(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, v, v + wide)
        v += wide


@part
def dot_rows(X, x0, x_row, Y, y0, y_row, out, o0, o_row, rows, count):
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for any (padded) `rows` and four rows r of Y."""
    dot_blocks(X, x0, x_row, Y, y0, y_row, out, o0, o_row, rows, FOUR, count)


@kernel
def dot_blocks(X, x0, x_row, Y, y0, y_row, out, o0, o_row, rows, others, count):
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for any (padded) `rows` and `others`, a multiple of 4."""
    a = 0
    while a < rows:
        n = strip_rows(rows - a)
        x, o = x0 + a * x_row, o0 + a * o_row
        for r in range(0, others, 4):
            y = y0 + r * y_row
            if n == 5:
                dot_tile(5, X, x, x_row, Y, y, y_row, out, o + r, o_row, count)
            elif n == 4:
                dot_tile(4, X, x, x_row, Y, y, y_row, out, o + r, o_row, count)
            elif n == 2:
                dot_tile(2, X, x, x_row, Y, y, y_row, out, o + r, o_row, count)
            else:
                dot_tile(1, X, x, x_row, Y, y, y_row, out, o + r, o_row, count)
        a += n


@kernel
def suffix_products(weights, layers, products, q, q_padded, lane, rank, team, meeting):
    """Pass 1: ``B_{l-1} = B_l W_l`` for l = L … 1; the last written is M itself.

    Parameters
    ----------
    weights, products : ndarray, flat, as laid out by `Layout`
    layers : ndarray of int64, shape (depth, 5)
    q, q_padded, lane : int
        Rows of M, the same padded, and numbers per vector.
    rank, team, meeting
        This member, the size of the team, and where it meets.
    """
    last = layers.shape[0] - 1
    begin, end = share(layers[last, STRIDE], rank, team)
    stride = layers[last, STRIDE]
    # The padded rows of a product are those of the layer, which are zero.
    for a in range(q_padded):
        source = weights[layers[last, OFFSET] + a * stride :]
        target = products[layers[last, PRODUCT] + a * stride :]
        for j in range(begin, end):
            target[np.uintp(j)] = source[np.uintp(j)]
    meet(meeting, team)
    for layer in range(last - 1, -1, -1):
        _suffix_product(weights, layers, products, layer, q_padded, lane, rank, team)
        meet(meeting, team)


@part
def _suffix_product(weights, layers, products, layer, q_padded, lane, rank, team):
    stride = layers[layer, STRIDE]
    begin, end = share(stride // lane, rank, team)
    clear_vectors(products, layers[layer, PRODUCT], stride, q_padded, lane, begin, end)
    rows, far = layers[layer, ROWS], weights.nbytes > FAR
    terms = FAR_TERMS if far else NEAR_TERMS
    for k in range(0, rows, terms):
        add_layer_rows(
            weights, layers, products, layer, k, min(terms, rows - k), far, q_padded, lane,
            begin, end,
        )  # fmt: skip


@part
def add_layer_rows(weights, layers, products, layer, row, count, far, q_padded, lane, begin, end):
    """Add to ``B_l = B_{l+1} W_l`` the terms of `count` rows of the layer from `row` on."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w, b = layers[layer, OFFSET] + row * stride, layers[layer + 1, PRODUCT] + row
    target = layers[layer, PRODUCT]
    if far:
        add_product_fetching(
            products, b, above, ONE, weights, w, stride, products, target, stride, q_padded, count,
            lane, begin, end,
        )  # fmt: skip
    else:
        add_product(
            products, b, above, ONE, weights, w, stride, products, target, stride, q_padded, count,
            lane, begin, end,
        )  # fmt: skip


@kernel
def update_layers(
    weights, layers, products, C, D, rates, decay, q, q_padded, lane, rank, team, meeting
):
    """Pass 2: ``W_l := decay·W_l − η_l B_lᵀ C_{l-1}``, ``C_l = C_{l-1} W_lᵀ``, one visit a layer.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds ``−η_1 G`` on entry (stride of layer 1); both are overwritten.
    rates : ndarray of the weights' dtype, shape (depth,)
        The step size of every layer.
    decay : float
        What weight decay leaves of the weights: ``1 − η λ``, 1 without.

    Notes
    -----
    The chain carries ``−η_l C_{l-1}``, so that updates need no factor; it is rescaled only where
    the step size changes from one layer to the next.
    """
    last = layers.shape[0] - 1
    for layer in range(last):
        begin, end = share(row_blocks(layers, layer), rank, team)
        visit = visit_rows(weights, layers, layer)
        for row in range(4 * begin, 4 * end, visit):
            rows = min(visit, 4 * end - row)
            _visit(weights, layers, products, C, D, layer, row, rows, decay, q_padded, lane)
        finish_costate(layers, layer, D, rates, q, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    stride = layers[last, STRIDE]
    begin, end = share(stride, rank, team)
    for a in range(q):
        target = weights[layers[last, OFFSET] + a * stride :]
        source = C[a * stride :]
        for j in range(begin, end):
            target[np.uintp(j)] = decay * target[np.uintp(j)] + source[np.uintp(j)]
    meet(meeting, team)


@part
def row_blocks(layers, layer):
    """Return how many blocks of four rows a layer has."""
    return (layers[layer, ROWS] + 3) // 4


@part
def visit_rows(weights, layers, layer):
    """Return how many rows of a layer pass 2 visits at a time: a multiple of 4."""
    fitting = VISIT_BYTES // (layers[layer, STRIDE] * weights.itemsize)
    return max(4, min(VISIT_ROWS, fitting // 4 * 4))


@part
def finish_costate(layers, layer, D, rates, q, q_padded, begin, end):
    """Clear the next co-state's padding and rescale this member's columns to the next rate."""
    blocks, stride = row_blocks(layers, layer), layers[layer + 1, STRIDE]
    if end == blocks:
        clear_columns(D, stride, q_padded, 4 * blocks)
    if rates[layer + 1] != rates[layer]:
        factor = rates[layer + 1] / rates[layer]
        _rescale(D, stride, q, 4 * begin, 4 * end, factor)


@part
def _visit(weights, layers, products, C, D, layer, row, rows, decay, q_padded, lane):
    """Form columns of the next C from some rows of a layer, then update those rows."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    dot_blocks(C, ZERO, stride, weights, w, stride, D, row, above, q_padded, rows, stride // lane)
    update_rows(weights, layers, products, C, ZERO, layer, row, rows, decay, q_padded, lane)


@part
def update_rows(weights, layers, products, C, c0, layer, row, rows, decay, q_padded, lane):
    """``W := decay·W + Bᵀ C`` on `rows` rows of a layer from `row` on, both multiples of 4."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    if decay != 1:
        # A loop, not an array expression, which would take seconds to compile.
        block = weights[w : w + rows * stride]
        for j in range(block.size):
            block[j] *= decay
    b = layers[layer + 1, PRODUCT] + row
    add_product(
        products, b, ONE, above, C, c0, stride, weights, w, stride, rows, q_padded, lane,
        ZERO, stride // lane,
    )  # fmt: skip


@part
def clear_vectors(matrix, start, stride, rows, lane, begin, end):
    """Zero vectors ``begin ≤ v < end`` of every row of a matrix that begins at `start`."""
    for a in range(rows):
        row = start + a * stride
        matrix[row + begin * lane : row + end * lane] = 0


@part
def clear_columns(matrix, stride, rows, begin):
    """Zero the columns from `begin` on: buffers are shared by layers of different strides."""
    for a in range(rows):
        matrix[a * stride + begin : (a + 1) * stride] = 0


@part
def _rescale(D, stride, q, begin, end, factor):
    for a in range(q):
        row = D[a * stride + begin : a * stride + end]
        for j in range(row.size):
            row[j] *= factor


@part
def strip4(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, count, lane, begin, end):
    """Add a product to four rows of vectors ``begin ≤ v < end``."""
    add_product(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, FOUR, count, lane, begin, end)
