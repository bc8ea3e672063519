"""Project the first layer onto a basis of the inputs, by the product of the chain kernels.

NumPy's matrix product is avoided because its threads spin while the networks of a sweep train, and
its last bits may depend on the number of threads.
"""

import weakref

import numpy as np

from fastdln.kernels.cpu.gemm import NO_PREFETCH, OVERWRITE, add_product
from fastdln.kernels.cpu.groups import Extent, Operand
from fastdln.kernels.cpu.layout import aligned_zeros
from fastdln.kernels.cpu.tiles import lanes

# Packed bases of at most this many bytes are kept as long as the basis lives: packing the 1024 × 16
# of the paper took a third of the time of projecting a layer of ten rows on it, for each of many
# small networks of one problem.
MOST_KEPT_BYTES = 2**20
_kept: dict[tuple[int, str], tuple["weakref.ref[np.ndarray]", np.ndarray]] = {}


def project_inputs(layer: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return ``W U`` for W of shape (m, d_x) and U of shape (d_x, r), in W's dtype."""
    m, d_x = layer.shape
    r, lane = basis.shape[1], lanes(layer.dtype)
    stride, rows = -(-r // lane) * lane, -(-m // 4) * 4
    Y = _packed(basis, layer.dtype, stride)
    # Pad to whole strips of four rows, and copy read-only layers: Numba would compile a second
    # specialisation for read-only arrays.
    X = np.zeros((rows, d_x), layer.dtype) if m % 4 or not layer.flags.c_contiguous else layer
    if X is not layer:
        X[:m] = layer
    flat = X.reshape(-1) if X.flags.writeable else X.reshape(-1).copy()
    out = aligned_zeros(rows * stride, layer.dtype)
    add_product(
        Operand(flat, 0, d_x, 1),
        Operand(Y, 0, stride, 1),
        Operand(out, 0, stride, 1),
        Extent(rows, d_x, 0, stride // lane, lane),
        OVERWRITE,
        NO_PREFETCH,
    )
    return out.reshape(rows, stride)[:m, :r]


def _packed(basis: np.ndarray, dtype: np.dtype, stride: int) -> np.ndarray:
    """Return a basis in this dtype with rows of `stride` elements, padded by zeros."""
    key = id(basis), dtype.char
    kept = _kept.get(key)
    if kept is not None and kept[0]() is basis:
        return kept[1]
    Y = aligned_zeros(len(basis) * stride, dtype)
    Y.reshape(len(basis), stride)[:, : basis.shape[1]] = basis
    if Y.nbytes <= MOST_KEPT_BYTES:
        _kept[key] = weakref.ref(basis, lambda _: _kept.pop(key, None)), Y
    return Y
