"""The buffers through which the passes of the zigzag step exchange data."""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.layout import STRIDE, Layout, aligned_zeros
from fastdln.kernels.cpu.two_pass import new_workspace


class ZigzagWorkspace(NamedTuple):
    """A `Workspace` with the buffers between passes; created by `zigzag_workspace`.

    Attributes
    ----------
    C, D, scratch : ndarray
        As in `Workspace`.
    before : ndarray
        Suffix products at the start of the last down pass, laid out as the products.
    costates : ndarray
        Co-states of the last down pass, times −η_l, laid out as the products.
    prefixes : ndarray
        Prefix products, in slots in the order of the products.
    gram : ndarray
        One Gram matrix per team member.
    state : ndarray of int64, shape (2,)
        UPWARD and DEFERRED, between two calls.
    """

    C: np.ndarray
    D: np.ndarray
    scratch: np.ndarray
    before: np.ndarray
    costates: np.ndarray
    prefixes: np.ndarray
    gram: np.ndarray
    state: np.ndarray


# Elements of `ZigzagWorkspace.state`: whether the next pass is an up pass, and whether the weights
# still lack the update that the last down pass deferred.
UPWARD, DEFERRED = range(2)


def zigzag_size(layout: Layout) -> int:
    """Return the elements that `zigzag_workspace` allocates in addition to `new_workspace`.

    The small Gram matrices of the team are not counted.
    """
    return 2 * layout.product_size + layout.product_size // layout.q_padded * _d_padded(layout)


def zigzag_workspace(layout: Layout, team: int) -> ZigzagWorkspace:
    """Return a new workspace for a network of this layout and a team of this size."""
    C, D, scratch = new_workspace(layout, team)
    # Gram matrices read rows of B in blocks of four, up to three rows past the last product.
    before = aligned_zeros(layout.product_size + 4 * layout.widest, layout.dtype)
    costates = aligned_zeros(layout.product_size, layout.dtype)
    rows, stride = _d_padded(layout), int(layout.layers[0, STRIDE])
    prefixes = aligned_zeros(layout.product_size // layout.q_padded * rows, layout.dtype)
    # The empty product below the first layer.
    np.fill_diagonal(prefixes[: rows * stride].reshape(rows, stride)[: layout.widths[0]], 1)
    gram = aligned_zeros(team * layout.q_padded * ((layout.q + 3) // 4 * 4), layout.dtype)
    state = np.zeros(2, dtype=np.int64)
    return ZigzagWorkspace(C, D, scratch, before, costates, prefixes, gram, state)


def _d_padded(layout: Layout) -> int:
    return (layout.widths[0] + 3) // 4 * 4
