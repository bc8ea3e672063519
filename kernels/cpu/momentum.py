"""Pass 2 with a velocity: Polyak's and Nesterov's momentum, with weight decay in the gradient.

With gradient g of a layer, ``v := μ v + g + λ w`` and then ``w −= η v`` (Polyak) or
``w −= η (g + λ w + μ v)`` (Nesterov), in the form of Sutskever et al. 2013 that PyTorch uses.
A few rows of a layer and of its velocity are visited at a time, while they are in cache.
"""

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import OFFSET, PRODUCT, STRIDE, VECTORS
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.two_pass import (
    FOUR,
    MORE,
    ONE,
    ZERO,
    add_product,
    clear_costate_padding,
    costate_columns,
    share_rows,
)


@kernel
def update_layers_with_velocity(
    weights, layers, products, C, D, scratch, velocity, rates, pulls, momentum, nesterov,
    q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Update every layer through its velocity, forming the co-states in the same visits.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds G itself on entry, not scaled by a rate; both are overwritten.
    scratch : ndarray
        `chain.scratch_numbers` for every member of the team.
    velocity : ndarray
        Laid out as the weights.
    rates, pulls : ndarray of the weights' dtype, shape (depth,)
        Step size η_l and weight decay λ_l of every normalised layer.
    momentum : float
        μ in [0, 1).
    nesterov : bool
    """
    last = layers.shape[0] - 1
    for layer in range(last):
        begin, end = share_rows(layers, layer, lane, rank, team)
        stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
        visit = max(lane, FOUR)
        for row in range(begin, end, visit):
            count = min(visit, end - row)
            costate_columns(
                weights, layers, C, ZERO, D, ZERO, layer, row, count, q_padded, scratch, rank, lane
            )
            w, b = layers[layer, OFFSET] + row * stride, layers[layer + 1, PRODUCT] + row
            rows, speed = weights[w : w + count * stride], velocity[w : w + count * stride]
            _coast(rows, speed, rates[layer], pulls[layer], momentum, nesterov)
            add_product(
                products, b, ONE, above, C, ZERO, stride, velocity, w, stride, count, q_padded,
                lane, ZERO, layers[layer, VECTORS], MORE, ZERO, ZERO,
            )  # fmt: skip
            _move(rows, speed, rates[layer], momentum, nesterov)
        clear_costate_padding(layers, layer, D, ZERO, q_padded, begin, end)
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
    one = rows.dtype.type(1)  # a literal 1 would make the factor float64
    factor = rate * (one + momentum) if nesterov else rate
    for j in range(rows.size):
        rows[j] -= factor * speed[j]
