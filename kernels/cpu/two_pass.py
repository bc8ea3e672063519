"""The two-pass step: suffix products down the chain, then gradients and updates up it.

With ``M = W_L ··· W_1``, suffix products ``B_l = W_L ··· W_{l+1}`` and ``G = ∂ℓ/∂M``, the gradient
of layer l is ``B_lᵀ C_{l-1}``, where ``C_0 = G`` and ``C_l = C_{l-1} W_lᵀ``. Pass 1 reads every
layer once and leaves all suffix products; pass 2 reads and writes every layer once, updating it
in the same visit that forms C. Every product has q rows, q the rows of M.

Work is split so that every number is summed in the same order for any team: pass 1 by columns of
a layer, pass 2 by its rows. The same bits come out for any number of threads.
"""

from typing import Any

import numpy as np

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import COLUMNS, OFFSET, PRODUCT, ROWS, STRIDE, VECTORS
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.tiles import WIDE, dot_tile, lanes, product_tile, turn_tile

# Bytes of weights above which they are taken to come from memory rather than from cache.
FAR = 24 * 2**20
# Numba compiles a kernel anew for every literal that it is called with; for these it does not.
ZERO, ONE, TWO, FOUR = np.intp(0), np.intp(1), np.intp(2), np.intp(4)
# Whether a product is written, or added to what is there. Clearing first was slow: a loop over a
# few hundred numbers becomes a call of memset, which took 40% of pass 1 at width 26.
FRESH, MORE = np.bool_(True), np.bool_(False)
# Rows of a layer that one call adds to a product. From cache 128 beat 16 by a fifth to a third
# (fewer calls); from memory 16, fetched one block ahead, beat no fetching by a third.
NEAR_TERMS, FAR_TERMS = 128, 16
# Bytes of a layer that pass 2 visits at a time, and most rows: against visits of 4 rows, 64 made
# pass 2 of widths 100 to 300 1.8 to 2.5 times as fast, for a call costs as much as its work on
# 4 rows of 100, and every visit reads B and C anew.
VISIT_BYTES, VISIT_ROWS = 2**18, 64
# Layers of at most so many vectors a row are transposed for the next co-state. Sums across lanes
# cost as much as 2 vectors of multiply-adds, a transposition as 1 or 2: at width 26 in float32 the
# co-states took 580 cycles a layer by dot products and 420 by transposing.
TURNED_VECTORS = 2


@part
def strip_rows(left, far):
    """Return how many of `left` rows the next strip takes: 5, 4, 2 or 1.

    Five, where what is left then is made of fives and fours: twenty sums keep the processor's two
    multiply-add units busy, sixteen do not quite (updating a layer of 100 rows by strips of four
    took a quarter longer). Rows that come from memory are better taken by fours.
    """
    after = left - 5
    if after < 0 or (far and left % 4 == 0):
        return 4 if left >= 4 else (2 if left >= 2 else 1)
    if after >= 12 or after == 0 or after == 4 or after == 5 or 8 <= after <= 10:
        return 5
    return 4


def _panel(wide):
    """Return the kernel that adds a product to all rows of `wide` vectors."""

    @part
    def panel(
        X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, fresh, ahead, strip
    ):
        a, far = 0, out.nbytes > FAR
        while a < rows:
            n = strip_rows(rows - a, far)
            x, o = x0 + a * x_row, o0 + a * o_row
            f = y0 + ahead + strip % WIDE * lane
            if n == 5:
                product_tile(5, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, fresh, f)
            elif n == 4:
                product_tile(4, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, fresh, f)
            elif n == 2:
                product_tile(2, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, fresh, f)
            else:
                product_tile(1, wide, X, x, x_row, x_k, Y, y0, y_k, out, o, o_row, count, fresh, f)
            a += n
            strip += 1

    return panel


_panel1, _panel2, _panel3, _panel_wide = (_panel(n) for n in (1, 2, 3, WIDE))


@kernel
def add_product(
    X, x0, x_row, x_k, Y, y0, y_k, out, o0, o_row, rows, count, lane, begin, end, fresh, ahead,
    strip,
):  # fmt: skip
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for any (padded) `rows`, vectors ``begin ≤ v < end``.

    Where `fresh`, the product is written, whatever `out` holds. Meanwhile strip number i of rows of
    X asks for vector ``(strip + i) mod WIDE`` of what lies `ahead` numbers after every tile of Y:
    four strips fetch as much as they read. In bursts, before each tile, it was a quarter slower.

    All rows visit a tile's columns before the next tile: that part of Y stays in the first-level
    cache meanwhile.
    """
    v = begin
    while v + WIDE <= end:
        y, o = y0 + v * lane, o0 + v * lane
        _panel_wide(
            X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count, lane, fresh, ahead, strip
        )
        v += WIDE
    y, o = y0 + v * lane, o0 + v * lane
    if v + 3 == end:
        _panel3(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count, lane, fresh, ahead, strip)
    elif v + 2 == end:
        _panel2(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count, lane, fresh, ahead, strip)
    elif v < end:
        _panel1(X, x0, x_row, x_k, Y, y, y_k, out, o, o_row, rows, count, lane, fresh, ahead, strip)


@kernel
def dot_blocks(X, x0, x_row, Y, y0, y_row, out, o0, o_row, rows, others, count, ahead, strip):
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for any (padded) `rows` and `others`, a multiple of 4.

    Meanwhile strip number i of rows of X asks for row ``4 j + (strip + i) mod 4`` from
    ``Y[y0 + ahead]`` on, for all j: four strips fetch as many rows as they read.
    """
    a = 0
    while a < rows:
        n = strip_rows(rows - a, False)
        x, o = x0 + a * x_row, o0 + a * o_row
        next_row = y0 + ahead + strip % 4 * y_row
        for r in range(0, others, 4):
            y, f = y0 + r * y_row, next_row + r * y_row
            if n == 5:
                dot_tile(5, X, x, x_row, Y, y, y_row, out, o + r, o_row, count, f)
            elif n == 4:
                dot_tile(4, X, x, x_row, Y, y, y_row, out, o + r, o_row, count, f)
            elif n == 2:
                dot_tile(2, X, x, x_row, Y, y, y_row, out, o + r, o_row, count, f)
            else:
                dot_tile(1, X, x, x_row, Y, y, y_row, out, o + r, o_row, count, f)
        a += n
        strip += 1


def _suffix_products(weights, layers, products, q, q_padded, lane, rank, team, meeting):
    """Pass 1: ``B_{l-1} = B_l W_l`` for l = L … 1; the last written is M itself.

    Parameters
    ----------
    weights, products : ndarray, flat, as laid out by `Layout`
    layers : ndarray of int64, shape (depth, 6)
    q, q_padded, lane : int
        Rows of M, the same padded, and numbers per vector.
    rank, team, meeting
        This member, the size of the team, and where it meets.
    """
    last = layers.shape[0] - 1
    begin, end = share(layers[last, STRIDE], rank, team)
    copy_last_layer(weights, layers, products, ZERO, q_padded, begin, end)
    meet(meeting, team)
    for layer in range(last - 1, -1, -1):
        begin, end = share(layers[layer, VECTORS], rank, team)
        suffix_product(weights, layers, products, layer, ZERO, q_padded, lane, begin, end)
        meet(meeting, team)


# Called by themselves, and inside the kernels of many steps.
suffix_products, suffix_products_part = kernel(_suffix_products), part(_suffix_products)


@part
def copy_last_layer(weights, layers, products, first, rows, begin, end):
    """Fill columns begin ≤ j < end of some rows of ``B_{L-1}``, which is the last layer."""
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    # The padded rows of a product are those of the layer, which are zero.
    for a in range(first, first + rows):
        w, b = layers[last, OFFSET] + a * stride, layers[last, PRODUCT] + a * stride
        for j in range(begin, end):
            products[np.uintp(b + j)] = weights[np.uintp(w + j)]


@part
def suffix_product(weights, layers, products, layer, first, rows, lane, begin, end):
    """Form vectors begin ≤ v < end of rows first, …, first + rows of one suffix product."""
    height, far = layers[layer, ROWS], weights.nbytes > FAR and not is_turned(layers, layer)
    terms = FAR_TERMS if far else NEAR_TERMS
    k = ZERO
    while k < height:  # a range with a step that is not a constant would divide
        add_layer_rows(
            weights, layers, products, layer, k, min(terms, height - k), far, first, rows, lane,
            begin, end, k == 0, ZERO,
        )  # fmt: skip
        k += terms


@part
def add_layer_rows(
    weights, layers, products, layer, row, count, far, first, rows, lane, begin, end, fresh, strip
):
    """Add to rows of ``B_l = B_{l+1} W_l`` the terms of `count` rows of the layer from `row` on.

    Where the layer is `far` as many rows are asked for that come next; see `add_product`.
    """
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    b = layers[layer + 1, PRODUCT] + first * above + row
    target = layers[layer, PRODUCT] + first * stride
    add_product(
        products, b, above, ONE, weights, w, stride, products, target, stride, rows, count, lane,
        begin, end, fresh, count * stride if far else ZERO, strip,
    )  # fmt: skip


def _update_layers(
    weights, layers, products, C, D, scratch, rates, decay, q, q_padded, lane, rank, team, meeting
):
    """Pass 2: ``W_l := decay·W_l − η_l B_lᵀ C_{l-1}``, ``C_l = C_{l-1} W_lᵀ``, one visit a layer.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds ``−η_1 G`` on entry (stride of layer 1); both are overwritten.
    scratch : ndarray
        `scratch_numbers` for every member of the team.
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
        begin, end = share_rows(layers, layer, lane, rank, team)
        visit = visit_rows(weights, layers, layer)
        row = begin
        while row < end:
            rows = min(visit, end - row)
            costate_columns(
                weights, layers, C, ZERO, D, ZERO, layer, row, rows, q_padded, scratch, rank, lane
            )
            update_rows(weights, layers, products, C, ZERO, layer, row, rows, decay, q_padded, lane)
            row += visit
        finish_costate(layers, layer, D, ZERO, rates, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    begin, end = share(layers[last, STRIDE], rank, team)
    update_last_layer(weights, layers, C, ZERO, decay, ZERO, q, begin, end)
    meet(meeting, team)


update_layers, update_layers_part = kernel(_update_layers), part(_update_layers)


@part
def update_last_layer(weights, layers, C, c0, decay, first, rows, begin, end):
    """``W_L := decay·W_L + C_{L-1}`` in columns begin ≤ j < end of some rows."""
    last = layers.shape[0] - 1
    stride = layers[last, STRIDE]
    for a in range(first, first + rows):
        w, c = layers[last, OFFSET] + a * stride, c0 + a * stride
        for j in range(begin, end):
            i = np.uintp(w + j)
            weights[i] = decay * weights[i] + C[np.uintp(c + j)]


@part
def is_turned(layers, layer):
    """Whether a layer is so narrow that its transpose gives the next co-state faster."""
    return layers[layer, VECTORS] <= TURNED_VECTORS


def scratch_numbers(dtype: Any) -> int:
    """Return the numbers of scratch that a member of a team needs: see `costate_columns`."""
    return TURNED_VECTORS * lanes(dtype) * VISIT_ROWS


@part
def share_rows(layers, layer, lane, rank, team):
    """Return the rows of a layer that a member does: whole vectors of the next co-state's columns.

    Padded to blocks of four at the end.
    """
    padded = (layers[layer, ROWS] + 3) // 4 * 4
    if team == 1:
        return ZERO, padded
    unit = max(lane, FOUR) if is_turned(layers, layer) else FOUR
    begin, end = share((padded + unit - 1) // unit, rank, team)
    return unit * begin, min(unit * end, padded)


@part
def visit_rows(weights, layers, layer):
    """Return how many rows of a layer pass 2 visits at a time: a multiple of 4."""
    row = layers[layer, STRIDE] * weights.itemsize
    if row * VISIT_ROWS <= VISIT_BYTES:
        return np.intp(VISIT_ROWS)
    return max(FOUR, VISIT_BYTES // row // 4 * 4)


@part
def costate_columns(weights, layers, C, c0, D, d0, layer, row, rows, height, scratch, rank, lane):
    """Form columns row, …, row + rows of ``D = C W_lᵀ`` for `height` rows of C.

    A narrow layer is transposed into this member's part of `scratch`.
    """
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    if is_turned(layers, layer):
        t = rank * TURNED_VECTORS * lane * VISIT_ROWS
        _turn(weights, w, stride, rows, layers[layer, VECTORS], scratch, t, lane)
        end = (rows + lane - 1) // lane
        add_product(
            C, c0, stride, ONE, scratch, t, np.intp(VISIT_ROWS), D, d0 + row, above, height,
            layers[layer, COLUMNS], lane, ZERO, end, FRESH, ZERO, ZERO,
        )  # fmt: skip
    else:
        dot_blocks(
            C, c0, stride, weights, w, stride, D, d0 + row, above, height, rows,
            layers[layer, VECTORS], rows * stride, ZERO,
        )  # fmt: skip


@part
def _turn(weights, w, stride, rows, vectors, turned, t, lane):
    """Transpose at most VISIT_ROWS rows of a narrow layer."""
    r = ZERO
    while r < rows:
        for v in range(vectors):
            turn_tile(
                weights, w + r * stride + v * lane, stride, rows - r,
                turned, t + v * lane * VISIT_ROWS + r, np.intp(VISIT_ROWS),
            )  # fmt: skip
        r += lane


@part
def finish_costate(layers, layer, D, d0, rates, rows, begin, end):
    """Clear `rows` rows' padding of the next co-state and rescale columns to the next rate."""
    clear_costate_padding(layers, layer, D, d0, rows, begin, end)
    if rates[layer + 1] != rates[layer]:
        factor = rates[layer + 1] / rates[layer]
        scale_columns(D, d0, layers[layer + 1, STRIDE], rows, begin, end, factor)


@part
def clear_costate_padding(layers, layer, D, d0, rows, begin, end):
    """Clear the next co-state's padding, where columns begin ≤ j < end include the last."""
    width = layers[layer, ROWS]
    # Products of a transpose are written in whole vectors, zeros included.
    if begin < width <= end and not is_turned(layers, layer):
        stride = layers[layer + 1, STRIDE]
        for a in range(rows):
            for j in range(a * stride + width, (a + 1) * stride):
                D[np.uintp(d0 + j)] = 0


@part
def update_rows(weights, layers, products, C, c0, layer, row, rows, decay, q_padded, lane):
    """``W := decay·W + Bᵀ C`` on `rows` rows of a layer from `row` on, both multiples of 4."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w = layers[layer, OFFSET] + row * stride
    if decay != 1:
        scale_columns(weights, w, stride, ONE, ZERO, rows * stride, decay)
    b = layers[layer + 1, PRODUCT] + row
    add_product(
        products, b, ONE, above, C, c0, stride, weights, w, stride, rows, q_padded, lane,
        ZERO, layers[layer, VECTORS], MORE, ZERO, ZERO,
    )  # fmt: skip


@part
def scale_columns(matrix, start, stride, rows, begin, end, factor):
    """Multiply columns begin ≤ j < end of a matrix that begins at `start`."""
    for a in range(rows):
        row = start + a * stride
        for j in range(row + begin, row + end):
            matrix[np.uintp(j)] *= factor
