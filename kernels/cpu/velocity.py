"""Pass 2 with a velocity: Polyak's and Nesterov's momentum, with weight decay in the gradient.

With gradient g of a layer, ``v := μ v + g + λ w`` and then ``w −= η v`` (Polyak) or
``w −= η (g + λ w + μ v)`` (Nesterov), in the form of Sutskever et al. 2013 that PyTorch uses.
Four rows of a layer and of its velocity are visited at a time, while they are in cache.
"""

import numpy as np

from .chain import ONE, ZERO, dot_rows, finish_costate, row_blocks, strip4
from .jit import kernel, part
from .layout import OFFSET, PRODUCT, STRIDE
from .team import meet, share


@kernel
def update_layers_with_velocity(
    weights, layers, products, C, D, velocity, rates, pulls, momentum, nesterov,
    q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Update every layer through its velocity, forming the co-states in the same visits.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds G itself on entry, not scaled by a rate; both are overwritten.
    velocity : ndarray
        Laid out as the weights.
    rates, pulls : ndarray of the weights' dtype, shape (depth,)
        Step size η_l and weight decay λ_l of every normalised layer.
    momentum : float
        μ in [0, 1).
    nesterov : bool
    """
    last = layers.shape[0] - 1
    ones = np.ones_like(rates)
    for layer in range(last):
        begin, end = share(row_blocks(layers, layer), rank, team)
        stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
        for block in range(begin, end):
            w = layers[layer, OFFSET] + 4 * block * stride
            b = layers[layer + 1, PRODUCT] + 4 * block
            vectors = stride // lane
            dot_rows(C, ZERO, stride, weights, w, stride, D, 4 * block, above, q_padded, vectors)
            rows = weights[w : w + 4 * stride]
            speed = velocity[w : w + 4 * stride]
            _coast(rows, speed, rates[layer], pulls[layer], momentum, nesterov)
            strip4(
                products,
                b,
                ONE,
                above,
                C,
                ZERO,
                stride,
                velocity,
                w,
                stride,
                q_padded,
                lane,
                ZERO,
                vectors,
            )
            _move(rows, speed, rates[layer], momentum, nesterov)
        finish_costate(layers, layer, D, ones, q, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    stride = layers[last, STRIDE]
    begin, end = share(stride, rank, team)
    for a in range(q):
        w = layers[last, OFFSET] + a * stride
        rows, speed = weights[w + begin : w + end], velocity[w + begin : w + end]
        _coast(rows, speed, rates[last], pulls[last], momentum, nesterov)
        # A loop, not an array expression, which would take seconds to compile.
        for j in range(speed.size):
            speed[j] += C[a * stride + begin + j]
        _move(rows, speed, rates[last], momentum, nesterov)
    meet(meeting, team)


@part
def _coast(rows, speed, rate, pull, momentum, nesterov):
    """``v := μ v + λ w``; Nesterov's step also takes back ``η μ v`` of the old velocity."""
    for j in range(rows.size):
        v, w = speed[j], rows[j]
        speed[j] = momentum * v + pull * w
        if nesterov:
            rows[j] = w + rate * momentum * v


@part
def _move(rows, speed, rate, momentum, nesterov):
    """``w −= η v``, or Nesterov's ``w −= η (1 + μ) v``."""
    factor = rate * (1 + momentum) if nesterov else rate
    for j in range(rows.size):
        rows[j] -= factor * speed[j]
