"""Many steps of gradient descent on a regression in one call, without returning to Python."""

import math

import numpy as np

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import PRODUCT, STRIDE
from fastdln.kernels.cpu.momentum import update_layers_with_velocity
from fastdln.kernels.cpu.team import meet
from fastdln.kernels.cpu.two_pass import suffix_products_part, update_layers_part


@part
def residual(products, layers, scale, target, C, factor, q, q_padded):
    """Return ``½‖M∘S − T‖²`` in float64 and leave ``−factor·(M∘S − T)∘S`` in C.

    Parameters
    ----------
    scale, target : ndarray of float64, shape (q, n)
        S and T: the reduced inputs (along the axis of M that meets the data) and targets.
    """
    total = 0.0
    for a in range(q_padded):
        total += row_residual(products, layers, scale, target, C, factor, a, q)
    return 0.5 * total


@part
def row_residual(products, layers, scale, target, C, factor, a, q):
    """Return the sum of squares of one (padded) row of the residual, and leave that row of C.

    Rows are summed apart so that members of a team may have them, and so that one row's additions
    need not wait for another's.
    """
    stride, n, total = layers[0, STRIDE], scale.shape[1], 0.0
    m, c = layers[0, PRODUCT] + a * stride, a * stride
    for j in range(n if a < q else 0, stride):
        C[np.uintp(c + j)] = 0
    if a < q:
        for b in range(n):
            r = products[m + b] * scale[a, b] - target[a, b]
            total += r * r
            C[c + b] = -factor * r * scale[a, b]
    return total


@part
def _evaluate(weights, layers, products, C, factor, scale, target, constant, losses, t,
              q, q_padded, lane, rank, team, meeting):  # fmt: skip
    """Fill ``losses[t]`` and leave ``−factor·G`` in C."""
    suffix_products_part(weights, layers, products, q, q_padded, lane, rank, team, meeting)
    if rank == 0:
        losses[t] = constant + residual(products, layers, scale, target, C, factor, q, q_padded)
    meet(meeting, team)


@kernel
def descend(weights, layers, products, C, D, scratch, rates, decay, scale, target, constant, losses,
            start, stop, floor, q, q_padded, lane, rank, team, meeting):  # fmt: skip
    """Advance from step `start` to `stop`; return the last step whose loss is known.

    Every member of the team calls this with its own rank. ``start = -1`` evaluates the loss
    before any step. Steps end early at a loss that is not finite or at most `floor`.

    Parameters
    ----------
    weights, products, C, D : ndarray
        The network, its products and two co-state buffers, as laid out by `Layout`; C carries
        the gradient from one call to the next.
    scratch : ndarray
        `chain.scratch_numbers` for every member of the team.
    rates : ndarray, shape (depth,)
        Step size of every layer.
    decay : float
        What weight decay leaves of the weights in one step.
    scale, target : ndarray of float64, shape (q, n)
        The reduced regression, transposed where the chain is mirrored.
    constant : float
        The part of the loss outside the span of the inputs.
    losses : ndarray of float64
        Written at every step taken.
    """
    t, factor = start, np.float64(rates[0])
    while t < 0 or (t < stop and math.isfinite(losses[t]) and losses[t] > floor):
        if t >= 0:
            update_layers_part(weights, layers, products, C, D, scratch, rates, decay, q, q_padded,
                               lane, rank, team, meeting)  # fmt: skip
        t += 1
        _evaluate(weights, layers, products, C, factor, scale, target, constant, losses, t,
                  q, q_padded, lane, rank, team, meeting)  # fmt: skip
    return t


@kernel
def descend_with_velocity(weights, layers, products, C, D, scratch, velocity, rates, pulls,
                          momentum, nesterov, scale, target, constant, losses, start, stop, floor,
                          q, q_padded, lane, rank, team, meeting):  # fmt: skip
    """Advance as `descend` does, by momentum.

    Parameters
    ----------
    velocity, pulls, momentum, nesterov
        See `velocity.update_layers_with_velocity`; all others as for `descend`.
    """
    t = start
    while t < 0 or (t < stop and math.isfinite(losses[t]) and losses[t] > floor):
        if t >= 0:
            update_layers_with_velocity(
                weights, layers, products, C, D, scratch, velocity, rates, pulls, momentum,
                nesterov, q, q_padded, lane, rank, team, meeting,
            )  # fmt: skip
        t += 1
        _evaluate(weights, layers, products, C, -1.0, scale, target, constant, losses, t,
                  q, q_padded, lane, rank, team, meeting)  # fmt: skip
    return t
