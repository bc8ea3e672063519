"""The buffers that the passes of the zigzag step leave for each other."""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.layout import STRIDE, Layout, aligned_zeros
from fastdln.kernels.cpu.two_pass import new_workspace


class ZigzagWorkspace(NamedTuple):
    """A `Workspace` with the data that the passes leave for each other; from `zigzag_workspace`.

    Attributes
    ----------
    C, D, scratch : ndarray
        As in `Workspace`.
    before : ndarray
        Suffix products of the last down pass's first step, laid out as the products.
    costates : ndarray
        Its co-states, laid out as the products, with −η_l in them.
    prefixes : ndarray
        Prefix products, in slots in the order of the products.
    gram : ndarray
        One Gram matrix for every member of the team.
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


# Elements of `ZigzagWorkspace.state`: whether the next pass goes up, and whether the update of the
# last down pass is still to be applied to the weights.
UPWARD, DEFERRED = range(2)


def zigzag_size(layout: Layout) -> int:
    """Return the elements of a `zigzag_workspace` beside those of `new_workspace`.

    The few Gram matrices of a team are left out.
    """
    return 2 * layout.product_size + layout.product_size // layout.q_padded * _d_padded(layout)


def zigzag_workspace(layout: Layout, team: int) -> ZigzagWorkspace:
    """Return a new workspace for a network of this layout and a team of this size."""
    C, D, scratch = new_workspace(layout, team)
    # A Gram matrix takes rows of B by fours, up to three rows past the last product.
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
