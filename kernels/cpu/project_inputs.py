"""The first layer on a basis of the inputs, by the chain's own product.

NumPy's matrix product would do, but its threads spin while the networks of a sweep train, and
its last bits may depend on how many there are.
"""

import numpy as np

from fastdln.kernels.cpu.layout import aligned_zeros
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import FRESH, ONE, ZERO, add_product


def restrict(layer: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return ``W U`` for W of shape (m, d_x) and U of shape (d_x, r), in W's dtype."""
    m, d_x = layer.shape
    r, lane = basis.shape[1], lanes(layer.dtype)
    stride, rows = -(-r // lane) * lane, -(-m // 4) * 4
    Y = aligned_zeros(d_x * stride, layer.dtype)
    Y.reshape(d_x, stride)[:, :r] = basis
    # Four rows at least, and writable, so that one compiled kernel serves all.
    X = np.zeros((rows, d_x), layer.dtype) if m % 4 or not layer.flags.c_contiguous else layer
    if X is not layer:
        X[:m] = layer
    out = aligned_zeros(rows * stride, layer.dtype)
    flat = X.reshape(-1) if X.flags.writeable else X.reshape(-1).copy()
    add_product(
        flat, ZERO, np.intp(d_x), ONE, Y, ZERO, np.intp(stride), out, ZERO, np.intp(stride),
        np.intp(rows), np.intp(d_x), np.intp(lane), ZERO, np.intp(stride // lane), FRESH,
        ZERO, ZERO,
    )  # fmt: skip
    return out.reshape(rows, stride)[:m, :r]
