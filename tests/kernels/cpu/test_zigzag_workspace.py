"""The zigzag step's buffers: their sizes, and their contents before the first pass."""

import numpy as np
import pytest

from fastdln.kernels.cpu.layout import PRODUCT, STRIDE, make_layout
from fastdln.kernels.cpu.two_pass import new_workspace
from fastdln.kernels.cpu.zigzag_workspace import DEFERRED, UPWARD, zigzag_size, zigzag_workspace

SHAPES = [(1, 1), (7, 4), (3, 17, 5), (5, 17, 3), (17, 65, 64, 2), (20, 31, 67, 5, 16)]


@pytest.mark.parametrize("team", [1, 3])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_sizes(widths, team, dtype):
    layout = make_layout(widths, dtype)
    workspace, plain = zigzag_workspace(layout, team), new_workspace(layout, team)
    for name, buffer in plain._asdict().items():
        assert getattr(workspace, name).size == buffer.size
    # Rows of the Gram matrices are read past the last product.
    past_the_end = 4 * layout.widest
    more = workspace.before.size - past_the_end + workspace.costates.size + workspace.prefixes.size
    assert more == zigzag_size(layout)
    assert workspace.gram.size % team == 0
    assert workspace.gram.size // team >= layout.q**2
    for buffer in workspace[:-1]:
        assert buffer.dtype == dtype
        assert buffer.ctypes.data % 64 == 0


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_the_prefix_below_the_first_layer_is_the_identity(widths, dtype):
    layout = make_layout(widths, dtype)
    prefixes, d = zigzag_workspace(layout, 1).prefixes, widths[0]
    rows = -(-d // 4) * 4
    stride = int(layout.layers[0, STRIDE])
    first = prefixes[: rows * stride].reshape(rows, stride)
    np.testing.assert_array_equal(first, np.eye(rows, stride) * (np.arange(rows) < d)[:, None])
    assert not prefixes[rows * stride :].any()
    # One slot for every product, in the order of the products.
    last = layout.layers[-1, PRODUCT] // layout.q_padded * rows
    assert prefixes.size == last + rows * layout.layers[-1, STRIDE]


def test_a_run_begins_with_a_down_pass_and_current_weights():
    state = zigzag_workspace(make_layout((5, 7, 3), "float64"), 2).state
    assert (state[UPWARD], state[DEFERRED]) == (0, 0)
