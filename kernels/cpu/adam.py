"""Pass 2 with Adam (Kingma & Ba 2015): the gradient of four rows at a time, never all of it."""

import numpy as np

from .chain import ONE, ZERO, dot_rows, finish_costate, row_blocks, strip4
from .jit import kernel, part
from .layout import OFFSET, PRODUCT, STRIDE
from .team import meet, share


@kernel
def update_layers_with_adam(
    weights, layers, products, C, D, mean, square, rates, scales, pull, beta1, beta2, epsilon,
    step, q, q_padded, lane, rank, team, meeting,
):  # fmt: skip
    """Update every layer by Adam, forming the co-states in the same visits.

    Parameters
    ----------
    C, D : ndarray, flat, q_padded × widest
        C holds G itself on entry; both are overwritten.
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
    ones = np.ones_like(rates)
    slope = np.empty(4 * D.size // q_padded, dtype=weights.dtype)
    first, second = 1 - beta1**step, 1 - beta2**step
    for layer in range(last):
        begin, end = share(row_blocks(layers, layer), rank, team)
        stride, above = layers[layer, STRIDE], layers[layer + 1, STRIDE]
        for block in range(begin, end):
            w = layers[layer, OFFSET] + 4 * block * stride
            b = layers[layer + 1, PRODUCT] + 4 * block
            vectors = stride // lane
            dot_rows(C, ZERO, stride, weights, w, stride, D, 4 * block, above, q_padded, vectors)
            g = slope[: 4 * stride]
            g[:] = 0
            strip4(
                products,
                b,
                ONE,
                above,
                C,
                ZERO,
                stride,
                g,
                ZERO,
                stride,
                q_padded,
                lane,
                ZERO,
                vectors,
            )
            here = slice(w, w + 4 * stride)
            _adapt(
                weights[here], g, mean[here], square[here], rates[layer], scales[layer], pull,
                beta1, beta2, epsilon, first, second,
            )  # fmt: skip
        finish_costate(layers, layer, D, ones, q, q_padded, begin, end)
        C, D = D, C
        meet(meeting, team)
    stride = layers[last, STRIDE]
    begin, end = share(stride, rank, team)
    for a in range(q):
        w = layers[last, OFFSET] + a * stride
        here = slice(w + begin, w + end)
        _adapt(
            weights[here], C[a * stride + begin : a * stride + end], mean[here], square[here],
            rates[last], scales[last], pull, beta1, beta2, epsilon, first, second,
        )  # fmt: skip
    meet(meeting, team)


@part
def _adapt(rows, g, mean, square, rate, scale, pull, beta1, beta2, epsilon, first, second):
    """One element-wise Adam step; padding has gradient 0 and stays 0."""
    for j in range(rows.size):
        slope = g[j] / scale + pull * scale * rows[j]
        m = beta1 * mean[j] + (1 - beta1) * slope
        v = beta2 * square[j] + (1 - beta2) * slope * slope
        mean[j], square[j] = m, v
        rows[j] -= rate * (m / first) / (np.sqrt(v / second) + epsilon)
