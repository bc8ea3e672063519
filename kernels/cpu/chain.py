"""The two-pass step: suffix products down the chain, then gradients and updates up it.

With ``M = W_L ··· W_1``, suffix products ``B_l = W_L ··· W_{l+1}`` and ``G = ∂ℓ/∂M``, the gradient
of layer l is ``B_lᵀ C_{l-1}``, where ``C_0 = G`` and ``C_l = C_{l-1} W_lᵀ``. Pass 1 reads every
layer once and leaves all suffix products; pass 2 reads and writes every layer once, updating it
in the same visit that forms C. Every product has q rows, q the rows of M.

Work is split so that every number is summed in the same order for any team: pass 1 by columns of
a layer, pass 2 by its rows. The same bits come out for any number of threads.
"""

import numpy as np

from .jit import kernel
from .layout import COLUMNS, OFFSET, PRODUCT, ROWS, STRIDE, TERMS
from .team import meet, share
from .tiles import WIDE, dot_tile, product_tile


def _product_strip(n):
    """Return the kernel that adds a product to `n` rows of vectors ``begin ≤ v < end``."""

    @kernel
    def strip(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, count, lane, begin, end):
        v = begin
        while v + WIDE <= end:
            y, o = y0 + v * lane, o0 + v * lane
            product_tile(n, WIDE, X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, count)
            v += WIDE
        if v + 2 <= end:
            y, o = y0 + v * lane, o0 + v * lane
            product_tile(n, 2, X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, count)
            v += 2
        if v < end:
            y, o = y0 + v * lane, o0 + v * lane
            product_tile(n, 1, X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, count)

    return strip


_strip1, _strip2, strip4, _strip5 = (_product_strip(n) for n in (1, 2, 4, 5))


@kernel
def strip_rows(left):
    """Return how many of `left` (padded) rows the next strip takes: 5, 4, 2 or 1."""
    if left >= 5 and left % 4 != 0:
        return 5
    if left >= 4:
        return 4
    return left


@kernel
def add_product(X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, begin, end):
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for any (padded) `rows`, vectors ``begin ≤ v < end``."""
    a = 0
    while a < rows:
        n = strip_rows(rows - a)
        x, o = x0 + a * x_row, o0 + a * o_row
        if n == 5:
            _strip5(X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, lane, begin, end)
        elif n == 4:
            strip4(X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, lane, begin, end)
        elif n == 2:
            _strip2(X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, lane, begin, end)
        else:
            _strip1(X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, lane, begin, end)
        a += n


@kernel
def dot_rows(X, x0, x_row, Y, y0, y_row, out, o0, o_row, rows, count):
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for any (padded) `rows` and four rows r of Y."""
    a = 0
    while a < rows:
        n = strip_rows(rows - a)
        x, o = x0 + a * x_row, o0 + a * o_row
        if n == 5:
            dot_tile(5, X, x, x_row, Y, y0, y_row, out, o, o_row, count)
        elif n == 4:
            dot_tile(4, X, x, x_row, Y, y0, y_row, out, o, o_row, count)
        elif n == 2:
            dot_tile(2, X, x, x_row, Y, y0, y_row, out, o, o_row, count)
        else:
            dot_tile(1, X, x, x_row, Y, y0, y_row, out, o, o_row, count)
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


@kernel
def _suffix_product(weights, layers, products, layer, q_padded, lane, rank, team):
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    source, target = layers[layer + 1, PRODUCT], layers[layer, PRODUCT]
    begin, end = share(stride // lane, rank, team)
    for a in range(q_padded):
        row = products[target + a * stride + begin * lane : target + a * stride + end * lane]
        row[:] = 0
    rows = layers[layer, ROWS]
    for k in range(0, rows, TERMS):
        w = layers[layer, OFFSET] + k * stride
        count = min(TERMS, rows - k)
        add_product(
            products, source + k, above, 1, weights, w, stride, products, target, stride,
            q_padded, count, lane, begin, end,
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
        for block in range(begin, end):
            _visit(weights, layers, products, C, D, layer, 4 * block, decay, q_padded, lane)
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


@kernel
def row_blocks(layers, layer):
    """Return how many blocks of four rows a layer has."""
    return (layers[layer, ROWS] + 3) // 4


@kernel
def finish_costate(layers, layer, D, rates, q, q_padded, begin, end):
    """Clear the next co-state's padding and rescale this member's columns to the next rate."""
    blocks, stride = row_blocks(layers, layer), layers[layer + 1, STRIDE]
    if end == blocks:
        clear_columns(D, stride, q_padded, 4 * blocks)
    if rates[layer + 1] != rates[layer]:
        factor = rates[layer + 1] / rates[layer]
        _rescale(D, stride, q, 4 * begin, 4 * end, factor)


@kernel
def _visit(weights, layers, products, C, D, layer, row, decay, q_padded, lane):
    """Form four columns of the next C from four rows of a layer, then update those rows."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    vectors = stride // lane
    dot_rows(C, 0, stride, weights, w, stride, D, row, above, q_padded, vectors)
    if decay != 1:
        weights[w : w + 4 * stride] *= decay
    b = layers[layer + 1, PRODUCT] + row
    strip4(
        products, b, 1, above, C, 0, stride, weights, w, stride, q_padded, lane, 0, vectors
    )


@kernel
def clear_columns(matrix, stride, rows, begin):
    """Zero the columns from `begin` on: buffers are shared by layers of different strides."""
    for a in range(rows):
        matrix[a * stride + begin : (a + 1) * stride] = 0


@kernel
def _rescale(D, stride, q, begin, end, factor):
    for a in range(q):
        row = D[a * stride + begin : a * stride + end]
        for j in range(row.size):
            row[j] *= factor
