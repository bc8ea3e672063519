"""Matrix products from tiles against NumPy, and how rows are cut into strips."""

import numpy as np
import pytest
from conftest import RTOL

from fastdln.kernels.cpu import gemm, layout
from fastdln.kernels.cpu.groups import Extent, Operand
from fastdln.kernels.cpu.tiles import WIDE, lanes


def operand(matrix):
    rows, columns = (np.intp(s // matrix.itemsize) for s in matrix.strides)
    memory = matrix if matrix.flags.c_contiguous else matrix.T
    return Operand(memory.reshape(-1), gemm.ZERO, rows, columns)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("vectors", range(1, WIDE + 3))
@pytest.mark.parametrize("rows", [1, 4, 9, 13])
def test_products_of_any_size(rows, vectors, order, overwrite, dtype, rng):
    n, terms = vectors * lanes(dtype), 7
    X = np.asarray(rng.standard_normal((rows, terms)), dtype, order=order)
    Y, out = (rng.standard_normal((k, n)).astype(dtype) for k in (terms, rows))
    expected = X @ Y + (0 if overwrite else out)
    if overwrite:
        out[:] = np.nan
    extent = Extent(*map(np.intp, (rows, terms, 0, vectors, lanes(dtype))))
    gemm.add_product(
        operand(X), operand(Y), operand(out), extent, np.bool_(overwrite), gemm.NO_PREFETCH
    )
    np.testing.assert_allclose(out, expected, rtol=0, atol=RTOL[dtype])


@pytest.mark.parametrize("rows", [1, 4, 9, 13])
def test_dots_of_rows(rows, dtype, rng):
    n, others = 3 * lanes(dtype), 8
    X, Y = (rng.standard_normal((k, n)).astype(dtype) for k in (rows, others))
    out = np.full((rows, others), np.nan, dtype)
    sizes = map(np.intp, (rows, others, 3))
    gemm.dot_blocks(operand(X), operand(Y), operand(out), *sizes, gemm.NO_PREFETCH)
    np.testing.assert_allclose(out, X @ Y.T, rtol=0, atol=RTOL[dtype])


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("q", range(1, 70))
def test_rows_are_made_of_strips(q, far):
    left, strips = layout.pad_rows(q), []
    assert q <= left <= q + 2
    while left:
        strips.append(gemm.strip_rows(left, far))
        left -= strips[-1]
        assert left >= 0
    assert set(strips) <= {1, 2, 4, 5}
    assert sum(n < 4 for n in strips) <= (2 if q < 4 else 0)
    assert not (far and q % 4 == 0 and 5 in strips)
