"""Chains of Haar matrices applied to a panel, against the product of their reflections."""

import haar_cases as cases
import numpy as np
import pytest

from fastdln.kernels.cpu import haar, haar_chain, reflectors
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes

BLOCK = int(reflectors.BLOCK)


def multiply(stream, X, count):
    """Return X and its products in buffers full of NaN, which any use would spread."""
    (n, k), dtype = X.shape, X.dtype
    rows, lane = int(padded(n)), lanes(dtype)
    stride = -(-k // lane) * lane
    out = np.full((count + 1, rows, stride), np.nan, dtype)
    out[0] = 0
    out[0, :n, :k] = X
    block = haar.Reflectors(
        V=np.full(rows * BLOCK, np.nan, dtype),
        minus_T=np.full(BLOCK**2, np.nan, dtype),
        signs=np.full(n, np.nan, dtype),
    )
    scratch = haar.Scratch(
        small=np.full(2 * BLOCK, np.nan),
        places=np.full(BLOCK, -1, np.intp),
        work=np.full(haar_chain.work_size(n, stride), np.nan, dtype),
        panels=np.empty(0, dtype),
    )
    haar_chain.multiply_chain(cases.source(stream), n, block, scratch, out)
    assert not out[:, n:].any()
    assert not out[:, :, k:].any()
    return out[:, :n, :k]


@pytest.mark.parametrize("k", [1, 5, 26, 70])
@pytest.mark.parametrize("n", [1, 2, 7, 31, 32, 33, 65, 101])
def test_products_are_those_of_the_reflections(n, k, dtype, rng):
    X = rng.standard_normal((n, k)).astype(dtype)
    found, expected = multiply(7, X, 3), X.astype(np.float64)
    np.testing.assert_array_equal(found[0], X)
    for stream, product in zip((7, 8, 9), found[1:], strict=True):
        expected = cases.naive_frame(stream, n, n) @ expected
        # A few roundings per reflector and per matrix, of columns of norm about √n.
        np.testing.assert_allclose(product, expected, rtol=0, atol=16 * np.finfo(dtype).eps * n)


def test_a_chain_continues_with_the_same_bits(dtype, rng):
    X = rng.standard_normal((37, 5)).astype(dtype)
    whole = multiply(3, X, 5)
    np.testing.assert_array_equal(multiply(5, whole[2], 3), whole[2:])


def test_columns_do_not_interact(dtype, rng):
    X = rng.standard_normal((37, 50)).astype(dtype)
    whole = multiply(3, X, 2)
    np.testing.assert_array_equal(multiply(3, X[:, 20:43], 2), whole[:, :, 20:43])


def test_an_empty_chain_changes_nothing(rng):
    X = rng.standard_normal((9, 3))
    np.testing.assert_array_equal(multiply(3, X, 0), X[None])
