"""The projection of the first layer onto a basis of the inputs, against NumPy."""

import numpy as np
import pytest

from fastdln.kernels.cpu import project_inputs as project_inputs_module
from fastdln.kernels.cpu.project_inputs import project_inputs


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (4, 7, 7), (17, 100, 16), (64, 33, 17)])
@pytest.mark.parametrize("form", ["contiguous", "read-only", "transposed", "strided"])
def test_projection(shape, form, dtype, rng):
    m, d_x, r = shape
    W = rng.standard_normal((m, d_x)).astype(dtype)
    if form == "transposed":
        W = np.ascontiguousarray(W.T).T
    if form == "strided":
        W = np.repeat(W, 2, axis=1)[:, ::2]
    if form == "read-only":
        W.flags.writeable = False
    U = np.linalg.qr(rng.standard_normal((d_x, r)))[0]
    got = project_inputs(W, U)
    assert got.dtype == dtype
    # One rounding per term and one for the basis.
    np.testing.assert_allclose(got, W @ U, atol=8 * np.sqrt(d_x) * np.finfo(dtype).eps, rtol=0)


def test_a_packed_basis_lives_as_long_as_the_basis(dtype, rng):
    W = rng.standard_normal((5, 9)).astype(dtype)
    kept = set(project_inputs_module._kept)
    for _ in range(3):  # a new basis may have the address of a freed one
        U = np.linalg.qr(rng.standard_normal((9, 4)))[0]
        first, second = project_inputs(W, U), project_inputs(W, U)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, W @ U, atol=1e-5)
        assert len(set(project_inputs_module._kept) - kept) == 1
        del U
        assert set(project_inputs_module._kept) == kept
