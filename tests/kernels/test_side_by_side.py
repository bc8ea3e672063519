"""Products of matrices in vector lanes against NumPy, lane by lane."""

import numpy as np
import pytest

from fastdln.kernels.cpu import batched as side_by_side
from fastdln.kernels.cpu.layout import aligned_zeros, make_layout
from fastdln.kernels.cpu.tiles import lanes


def lanewise(matrices, dtype):
    """Store matrices (one a lane) as the kernels take them: lanes last, flat."""
    stored = aligned_zeros(matrices.size, dtype)
    stored.reshape(*matrices.shape[1:], -1)[:] = np.moveaxis(matrices, 0, -1)
    return stored


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(1, 1, 1), (3, 2, 1), (5, 4, 7), (10, 26, 26), (7, 13, 5), (20, 3, 17), (11, 9, 2)],
)
def test_multiply(rows, columns, count, fresh, dtype, rng):
    n = lanes(dtype)
    X, Y, start = (
        rng.standard_normal((n, *shape)).astype(dtype)
        for shape in ((rows, count), (count, columns), (rows, columns))
    )
    expected = X.astype(np.float64) @ Y.astype(np.float64) + (0 if fresh else start)
    atol = 4 * (count + 1) * np.finfo(dtype).eps
    for transposed in (False, True):
        # As layers are read for co-states: the columns of Y are the rows of what is stored.
        stored = lanewise(Y.transpose(0, 2, 1) if transposed else Y, dtype)
        y_k, y_c = (1, count) if transposed else (columns, 1)
        out = lanewise(np.full_like(start, np.nan) if fresh else start, dtype)
        side_by_side.multiply(
            lanewise(X, dtype), 0, count, 1, stored, 0, y_k, y_c, out, 0, columns, rows, columns,
            count, fresh,
        )  # fmt: skip
        got = np.moveaxis(out.reshape(rows, columns, n), -1, 0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_wide_layers_are_refused():
    too_wide = 2 * lanes("float64") + 1
    with pytest.raises(ValueError, match=f"width {too_wide} are too wide"):
        side_by_side.make_table(make_layout((3, too_wide, 2), "float64"))
