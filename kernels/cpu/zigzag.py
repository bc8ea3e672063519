"""The zigzag step: every weight is read once a step and written once in two.

A sweep down the chain at time t knows the prefix products ``A_l = W_{l-1} ··· W_1`` and G of time
t, hence all co-states ``C_l = G A_lᵀ``, and forms the suffix products of t and of t+1 from one
visit to every layer: ``B_l(t+1) = B_{l+1}(t+1) W_l(t+1)``, and with ``W_l(t+1) = W_l(t) − η_l
B_{l+1}(t)ᵀ C_l(t)`` the last product is ``B_{l+1}(t+1) W_l(t)`` less a q×q Gram matrix times C_l:
the layer need not even be written. The sweep ends in M(t+1). The sweep up from there updates
the rows it visits twice, to t+1 and to t+2, and leaves the prefix products of t+2. Two steps
read the weights twice and write them once; the two-pass step reads them four times and writes
them twice. The price is d rows of prefix products on the way up and the buffers to remember
B, C and A at every layer.

Sweeps down split a layer's columns, sweeps up its rows: the same bits for any team.
"""

import math
from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import OFFSET, PRODUCT, ROWS, STRIDE, VECTORS, Layout, aligned_zeros
from fastdln.kernels.cpu.regression_loop import residual
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.two_pass import (
    FAR,
    FAR_TERMS,
    FRESH,
    MORE,
    NEAR_TERMS,
    ONE,
    TWO,
    ZERO,
    add_layer_rows,
    add_product,
    costate_columns,
    dot_blocks,
    finish_costate,
    scale_columns,
    scratch_numbers,
    share_rows,
    suffix_products,
    update_last_layer,
    update_rows,
    visit_rows,
)


@part
def _prefix_offset(layers, layer, q_padded, d_padded):
    """Return where the prefix product below a layer starts: slots in the order of the products."""
    return layers[layer, PRODUCT] // q_padded * d_padded


@part
def _costate(layers, layer, G, prefixes, costates, rates, d, d_padded, q_padded, lane, begin, end):
    """``C_l = G A_lᵀ`` on vectors ``begin ≤ v < end``, with this layer's −η_l in it."""
    stride, c = layers[layer, STRIDE], layers[layer, PRODUCT]
    a = _prefix_offset(layers, layer, q_padded, d_padded)
    add_product(
        G, ZERO, layers[0, STRIDE], ONE, prefixes, a, stride, costates, c, stride, q_padded, d,
        lane, begin, end, FRESH, ZERO, ZERO,
    )  # fmt: skip
    if rates[layer] != rates[0]:
        factor = rates[layer] / rates[0]
        scale_columns(costates, c, stride, q_padded, begin * lane, end * lane, factor)


@kernel
def sweep_down(
    weights, layers, products, before, costates, prefixes, gram, G, rates, decay,
    d, d_padded, q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """From prefix products and G of time t, leave suffix products of t and t+1, and co-states of t.

    Of the weights only the last layer is updated; the others owe the update that `before` (the
    suffix products of t) and `costates` stand for. `products` gets the suffix products of t+1.
    """
    last = layers.shape[0] - 1
    stride, c = layers[last, STRIDE], layers[last, PRODUCT]
    begin, end = share(layers[last, VECTORS], rank, team)
    _costate(layers, last, G, prefixes, costates, rates, d, d_padded, q_padded, lane, begin, end)
    for a in range(q_padded):
        w, p = layers[last, OFFSET] + a * stride, c + a * stride
        old, owed = weights[w : w + stride], costates[p : p + stride]
        now, new = before[p : p + stride], products[p : p + stride]
        for i in range(begin * lane, end * lane):
            j = np.uintp(i)
            now[j] = old[j]
            old[j] = decay * old[j] + owed[j]
            new[j] = old[j]
    meet(meeting, team)
    for layer in range(last - 1, -1, -1):
        _down(
            weights, layers, products, before, costates, prefixes, gram, G, rates, decay, layer,
            d, d_padded, q, q_padded, lane, rank, team,
        )  # fmt: skip
        meet(meeting, team)


@part
def _down(
    weights, layers, products, before, costates, prefixes, gram, G, rates, decay, layer,
    d, d_padded, q, q_padded, lane, rank, team,
):  # fmt: skip
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    source, target = layers[layer + 1, PRODUCT], layers[layer, PRODUCT]
    begin, end = share(layers[layer, VECTORS], rank, team)
    _costate(layers, layer, G, prefixes, costates, rates, d, d_padded, q_padded, lane, begin, end)
    rows, far = layers[layer, ROWS], weights.nbytes > FAR
    terms = FAR_TERMS if far else NEAR_TERMS
    for k in range(0, rows, terms):
        n = min(terms, rows - k)
        add_layer_rows(
            weights, layers, before, layer, k, n, far, ZERO, q_padded, lane, begin, end, k == 0,
            ZERO,
        )  # fmt: skip
        add_layer_rows(
            weights, layers, products, layer, k, n, far, ZERO, q_padded, lane, begin, end, k == 0,
            TWO,
        )  # fmt: skip
    # B_l(t+1) so far lacks the update of this layer: decay, and B_{l+1}(t+1) B_{l+1}(t)ᵀ C_l.
    wide = (q + 3) // 4 * 4
    g = rank * q_padded * wide
    dot_blocks(
        products, source, above, before, source, above, gram, g, wide, q_padded, wide,
        above // lane, ZERO, ZERO,
    )  # fmt: skip
    if decay != 1:
        scale_columns(products, target, stride, q_padded, begin * lane, end * lane, decay)
    add_product(
        gram, g, wide, ONE, costates, target, stride, products, target, stride, q_padded, q, lane,
        begin, end, MORE, ZERO, ZERO,
    )  # fmt: skip


@kernel
def sweep_up(
    weights, layers, products, before, costates, prefixes, C, D, scratch, rates, decay, owing,
    d, d_padded, q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Pay what a sweep down left owing, take the next step, and leave its prefix products.

    `C` holds ``−η_1 G`` on entry; M of the new weights is left where the suffix products end.
    """
    last = layers.shape[0] - 1
    for layer in range(last):
        begin, end = share_rows(layers, layer, lane, rank, team)
        visit = visit_rows(weights, layers, layer)
        for row in range(begin, end, visit):
            rows = min(visit, end - row)
            _up(
                weights, layers, products, before, costates, prefixes, C, D, scratch, layer, row,
                rows, decay, owing, d_padded, q_padded, rank, lane,
            )  # fmt: skip
        finish_costate(layers, layer, D, ZERO, rates, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    stride = layers[last, STRIDE]
    begin, end = share(stride, rank, team)
    update_last_layer(weights, layers, C, ZERO, decay, ZERO, q, begin, end)
    meet(meeting, team)
    if rank == 0:
        dot_blocks(
            weights, layers[last, OFFSET], stride,
            prefixes, _prefix_offset(layers, last, q_padded, d_padded), stride,
            products, layers[0, PRODUCT], layers[0, STRIDE], q_padded, d_padded,
            layers[last, VECTORS], ZERO, ZERO,
        )  # fmt: skip


@part
def _up(
    weights, layers, products, before, costates, prefixes, C, D, scratch, layer, row, rows,
    decay, owing, d_padded, q_padded, rank, lane,
):  # fmt: skip
    """Visit some rows of a layer: W(t+1), its co-state, W(t+2), its prefix product."""
    stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
    w, vectors = layers[layer, OFFSET] + row * stride, layers[layer, VECTORS]
    if owing:
        c = layers[layer, PRODUCT]
        update_rows(weights, layers, before, costates, c, layer, row, rows, decay, q_padded, lane)
    costate_columns(
        weights, layers, C, ZERO, D, ZERO, layer, row, rows, q_padded, scratch, rank, lane
    )
    update_rows(weights, layers, products, C, ZERO, layer, row, rows, decay, q_padded, lane)
    here = _prefix_offset(layers, layer, q_padded, d_padded)
    there = _prefix_offset(layers, layer + 1, q_padded, d_padded)
    dot_blocks(
        prefixes, here, stride, weights, w, stride, prefixes, there + row, above, d_padded, rows,
        vectors, rows * stride, TWO,
    )  # fmt: skip


@kernel
def settle(weights, layers, before, costates, decay, q_padded, lane, rank, team, meeting):
    """Pay what a sweep down left owing, so that the weights are those of the last step."""
    for layer in range(layers.shape[0] - 1):
        begin, end = share_rows(layers, layer, lane, rank, team)
        visit = visit_rows(weights, layers, layer)
        for row in range(begin, end, visit):
            rows = min(visit, end - row)
            c = layers[layer, PRODUCT]
            update_rows(
                weights, layers, before, costates, c, layer, row, rows, decay, q_padded, lane
            )
    meet(meeting, team)


# What `state` says between two calls: whether the next sweep goes up, and whether the weights
# are owed the update of the last sweep down.
UPWARD, OWING = range(2)


@kernel
def descend_zigzag(
    weights, layers, products, C, D, before, costates, prefixes, gram, scratch, state, rates, decay,
    scale, target, constant, losses, start, stop, last, floor, q, q_padded, lane,
    rank, team, meeting,
):  # fmt: skip
    """Advance from step `start` to `stop` as `descent.descend` does; return the last step known.

    Parameters
    ----------
    before, costates, prefixes, gram, scratch, state : ndarray
        As made by `zigzag_buffers`; they carry the sweeps from one call to the next.
    last : int
        The step at which the run ends: the weights are current after it, or after a loss that
        ends the run early, and may be owed an update at any other step.
    """
    d = scale.shape[1]
    d_padded = (d + 3) // 4 * 4
    t, upward, owing = start, state[UPWARD] == 1, state[OWING] == 1
    if t < 0:
        t, upward, owing = 0, True, False
        suffix_products(weights, layers, products, q, q_padded, lane, rank, team, meeting)
        _residual(products, layers, scale, target, C, rates, constant, losses, t, q, q_padded,
                  rank, team, meeting)  # fmt: skip
    while t < stop and math.isfinite(losses[t]) and losses[t] > floor:
        if upward:
            sweep_up(
                weights, layers, products, before, costates, prefixes, C, D, scratch, rates, decay,
                owing, d, d_padded, q, q_padded, lane, rank, team, meeting,
            )  # fmt: skip
        else:
            sweep_down(
                weights, layers, products, before, costates, prefixes, gram, C, rates, decay,
                d, d_padded, q, q_padded, lane, rank, team, meeting,
            )  # fmt: skip
        upward, owing = not upward, not upward
        t += 1
        _residual(products, layers, scale, target, C, rates, constant, losses, t, q, q_padded,
                  rank, team, meeting)  # fmt: skip
    if owing and (t >= last or not (math.isfinite(losses[t]) and losses[t] > floor)):
        settle(weights, layers, before, costates, decay, q_padded, lane, rank, team, meeting)
        owing = False
    meet(meeting, team)
    if rank == 0:
        state[UPWARD], state[OWING] = upward, owing
    return t


@part
def _residual(products, layers, scale, target, C, rates, constant, losses, t, q, q_padded,
              rank, team, meeting):  # fmt: skip
    if rank == 0:
        losses[t] = constant + residual(
            products, layers, scale, target, C, np.float64(rates[0]), q, q_padded
        )
    meet(meeting, team)


class Buffers(NamedTuple):
    """What the sweeps remember; see `descend_zigzag`."""

    before: np.ndarray
    costates: np.ndarray
    prefixes: np.ndarray
    gram: np.ndarray
    scratch: np.ndarray
    state: np.ndarray


def zigzag_numbers(layout: Layout) -> int:
    """Return how many numbers `zigzag_buffers` holds, a team's few Gram matrices left out."""
    return 2 * layout.product_size + layout.product_size // layout.q_padded * _padded(layout)


def zigzag_buffers(layout: Layout, team: int) -> Buffers:
    """Return fresh buffers for a network of this layout and a team of this size."""
    # A Gram matrix takes rows of B by fours, up to three rows past the last product.
    before = aligned_zeros(layout.product_size + 4 * layout.widest, layout.dtype)
    costates = aligned_zeros(layout.product_size, layout.dtype)
    rows, stride = _padded(layout), int(layout.layers[0, STRIDE])
    prefixes = aligned_zeros(layout.product_size // layout.q_padded * rows, layout.dtype)
    # The empty product below the first layer.
    np.fill_diagonal(prefixes[: rows * stride].reshape(rows, stride)[: layout.widths[0]], 1)
    gram = aligned_zeros(team * layout.q_padded * ((layout.q + 3) // 4 * 4), layout.dtype)
    scratch = aligned_zeros(team * scratch_numbers(layout.dtype), layout.dtype)
    return Buffers(before, costates, prefixes, gram, scratch, np.zeros(2, dtype=np.int64))


def _padded(layout: Layout) -> int:
    return (layout.widths[0] + 3) // 4 * 4
