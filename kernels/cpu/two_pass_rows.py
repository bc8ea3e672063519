"""The two-pass step for a team that shares the rows of the products instead of every layer.

Row a of a suffix product, of G and of a co-state comes from row a of the one before: some rows
can go down the whole chain and up again without the others. Only the updates need all rows. So
a team meets twice a step, however deep the network is, where sharing every layer takes two
meetings a layer, which at width 26 cost more than the second thread gained. Every member reads
all layers: that suits networks that stay in cache.

All sums are those of `descent.descend`, in the same order: the bits are the same.
"""

import math

import numpy as np

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import OFFSET, PRODUCT, ROWS, STRIDE, VECTORS
from fastdln.kernels.cpu.regression_loop import row_residual
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.two_pass import (
    ZERO,
    copy_last_layer,
    costate_columns,
    finish_costate,
    suffix_product,
    update_last_layer,
    update_rows,
    visit_rows,
)


@kernel
def descend_by_rows(
    weights, layers, products, costates, scratch, sums, rates, decay, scale, target, constant,
    losses, start, stop, floor, q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Advance from step `start` to `stop` as `descent.descend` does, which may go on from there.

    Parameters
    ----------
    costates : ndarray
        Laid out as the products; begins with the ``−η_1 G`` of step `start`.
    sums : ndarray of float64, shape (q_padded,)
        Squares of the residual's rows.
    """
    first, end = share(q_padded, rank, team)
    rows, t, known = end - first, max(start, 0), start >= 0
    loss = losses[t]
    # Every part appears once: each time that it is inlined it is compiled.
    while True:
        if not known:
            _residual_rows(
                weights, layers, products, costates, sums, rates, scale, target, first, rows, q,
                lane,
            )  # fmt: skip
        _costates(weights, layers, costates, scratch, rates, first, rows, lane, rank)
        meet(meeting, team)
        if not known:
            loss = constant + 0.5 * _total(sums)
            if rank == 0:
                losses[t] = loss
        if t >= stop or not math.isfinite(loss) or loss <= floor:
            break
        _update(weights, layers, products, costates, decay, q, q_padded, lane, rank, team)
        meet(meeting, team)
        t, known = t + 1, False
    meet(meeting, team)
    return t


@part
def _residual_rows(
    weights, layers, products, costates, sums, rates, scale, target, first, rows, q, lane
):
    """Take this member's rows down the chain; leave those of ``−η_1 G`` and their squares."""
    last = layers.shape[0] - 1
    copy_last_layer(weights, layers, products, first, rows, ZERO, layers[last, STRIDE])
    for layer in range(last - 1, -1, -1):
        suffix_product(
            weights, layers, products, layer, first, rows, lane, ZERO, layers[layer, VECTORS]
        )
    factor = np.float64(rates[0])
    for a in range(first, first + rows):
        sums[a] = row_residual(products, layers, scale, target, costates, factor, a, q)


@part
def _total(sums):
    """Return the sum of all members' numbers, in order."""
    total = 0.0
    for a in range(sums.size):
        total += sums[a]
    return total


@part
def _costates(weights, layers, costates, scratch, rates, first, rows, lane, rank):
    """Form some rows of all co-states; slot l holds ``−η_l C_{l-1}``."""
    for layer in range(layers.shape[0] - 1):
        c = layers[layer, PRODUCT] + first * layers[layer, STRIDE]
        d = layers[layer + 1, PRODUCT] + first * layers[layer + 1, STRIDE]
        height = (layers[layer, ROWS] + 3) // 4 * 4
        visit, row = visit_rows(weights, layers, layer), ZERO
        while row < height:
            count = min(visit, height - row)
            costate_columns(
                weights, layers, costates, c, costates, d, layer, row, count, rows, scratch, rank,
                lane,
            )  # fmt: skip
            row += visit
        finish_costate(layers, layer, costates, d, rates, rows, ZERO, height)


@part
def _update(weights, layers, products, costates, decay, q, q_padded, lane, rank, team):
    """Update this member's part of the weights, cut at blocks of four rows."""
    last = layers.shape[0] - 1
    begin, end = share(layers[last, OFFSET] + q * layers[last, STRIDE], rank, team)
    for layer in range(last + 1):
        row, stop = _row_at(layers, layer, begin), _row_at(layers, layer, end)
        c = layers[layer, PRODUCT]
        if layer == last:
            # The end of the weights lies inside a block of four where q is no multiple of it.
            stop = q if rank == team - 1 else min(stop, q)
            update_last_layer(
                weights, layers, costates, c, decay, row, stop - row, ZERO, layers[last, STRIDE]
            )
            return
        visit = visit_rows(weights, layers, layer)
        while row < stop:
            count = min(visit, stop - row)
            update_rows(
                weights, layers, products, costates, c, layer, row, count, decay, q_padded, lane
            )
            row += visit


@part
def _row_at(layers, layer, number):
    """Return the block of four rows of a layer in which a weight lies, clipped to the layer."""
    height, stride = (layers[layer, ROWS] + 3) // 4 * 4, layers[layer, STRIDE]
    within = number - layers[layer, OFFSET]
    if within <= 0:
        return ZERO
    if within >= height * stride:
        return height
    return within // (4 * stride) * 4
