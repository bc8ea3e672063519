"""Pass 2 with Adam (Kingma & Ba 2015): the gradient of a few rows at a time, never all of it."""

import numpy as np

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import OFFSET, PRODUCT, STRIDE, VECTORS, Layout
from fastdln.kernels.cpu.team import meet, share
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import (
    FOUR,
    FRESH,
    ONE,
    ZERO,
    add_product,
    clear_costate_padding,
    costate_columns,
    share_rows,
)


def slope_numbers(layout: Layout) -> int:
    """Return the numbers that a member of a team needs for the gradient of the rows it visits."""
    return max(lanes(layout.dtype), 4) * layout.widest


@kernel
def update_layers_with_adam(
    weights, layers, products, C, D, scratch, slopes, mean, square, rates, scales, pull, beta1,
    beta2, epsilon, step, q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Update every layer by Adam, forming the co-states in the same visits.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds G itself on entry; both are overwritten.
    scratch, slopes : ndarray
        `chain.scratch_numbers` and `slope_numbers` for every member of the team.
    mean, square : ndarray
        Running means of the gradient and of its square, laid out as the weights.
    rates, scales : ndarray of the weights' dtype, shape (depth,)
        Step size of the normalised layer, η/√rows, and √rows: Adam sees the paper's weights,
        whose gradient is the normalised one divided by √rows.
    pull, beta1, beta2, epsilon : float
        Weight decay λ and Adam's constants.
    step : int
        Number of this step, from 1.
    """
    last = layers.shape[0] - 1
    visit = max(lane, FOUR)
    each = slopes.size // team
    slope = slopes[rank * each : (rank + 1) * each]
    # A literal 1 would make all arithmetic float64, which takes longer.
    kind = weights.dtype.type
    new1, new2 = kind(1) - beta1, kind(1) - beta2
    first, second = kind(1 - beta1**step), kind(1 - beta2**step)
    for layer in range(last):
        begin, end = share_rows(layers, layer, lane, rank, team)
        stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
        for row in range(begin, end, visit):
            count = min(visit, end - row)
            costate_columns(
                weights, layers, C, ZERO, D, ZERO, layer, row, count, q_padded, scratch, rank, lane
            )
            w, b = layers[layer, OFFSET] + row * stride, layers[layer + 1, PRODUCT] + row
            g = slope[: count * stride]
            add_product(
                products, b, ONE, above, C, ZERO, stride, g, ZERO, stride, count, q_padded, lane,
                ZERO, layers[layer, VECTORS], FRESH, ZERO, ZERO,
            )  # fmt: skip
            here = slice(w, w + count * stride)
            _adapt(
                weights[here], g, mean[here], square[here], rates[layer], scales[layer], pull,
                beta1, beta2, new1, new2, epsilon, first, second,
            )  # fmt: skip
        clear_costate_padding(layers, layer, D, ZERO, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    stride = layers[last, STRIDE]
    begin, end = share(stride, rank, team)
    for a in range(q):
        w = layers[last, OFFSET] + a * stride
        here = slice(w + begin, w + end)
        _adapt(
            weights[here], C[a * stride + begin : a * stride + end], mean[here], square[here],
            rates[last], scales[last], pull, beta1, beta2, new1, new2, epsilon, first, second,
        )  # fmt: skip
    meet(meeting, team)


@part
def _adapt(
    rows, g, mean, square, rate, scale, pull, beta1, beta2, new1, new2, epsilon, first, second
):  # fmt: skip
    """One element-wise Adam step; padding has gradient 0 and stays 0."""
    for j in range(rows.size):
        slope = g[j] / scale + pull * scale * rows[j]
        m = beta1 * mean[j] + new1 * slope
        v = beta2 * square[j] + new2 * slope * slope
        mean[j], square[j] = m, v
        rows[j] -= rate * (m / first) / (np.sqrt(v / second) + epsilon)
