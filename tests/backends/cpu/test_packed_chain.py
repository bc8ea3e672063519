"""Packed chains hold the layers that they were given, mirrored or not."""

import naive
import numpy as np
import pytest
from packed import random_layers

from fastdln.backends.cpu.packed_chain import PackedChain, chain_layout, oriented_regression
from fastdln.kernels.cpu.groups import Member
from fastdln.kernels.cpu.layout import STRIDE
from fastdln.kernels.cpu.team import new_barrier
from fastdln.kernels.cpu.two_pass import suffix_products
from fastdln.objectives.regression import reduce_regression

SHAPES = [(7, 19, 3), (3, 19, 7), (5, 5), (4, 9)]


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_layers_and_their_product(widths, dtype, rtol, rng):
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    chain = PackedChain(iter(weights), widths, np.dtype(dtype))
    assert chain.mirrored == (widths[0] < widths[-1])
    assert chain.layout is chain_layout(widths, np.dtype(dtype))
    for index, w in enumerate(weights):
        np.testing.assert_array_equal(chain.layer(index), w)
    suffix_products(chain.network, Member(0, 1, new_barrier()))
    M = chain.end_to_end()
    assert M.dtype == np.float64
    np.testing.assert_allclose(M, naive.end_to_end(weights), rtol=0, atol=rtol)


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_a_gradient_is_written_as_the_kernels_take_it(widths, dtype, rng):
    chain = PackedChain(random_layers(widths, rng), widths, np.dtype(dtype))
    layout = chain.layout
    C = np.full(layout.q_padded * layout.widest, np.nan, dtype)
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    chain.put_gradient(G, -2.0, C)
    stride = int(layout.layers[0, STRIDE])
    rows = C[: layout.q * stride].reshape(layout.q, stride)
    np.testing.assert_array_equal(rows[:, : layout.widths[0]], -2 * (G.T if chain.mirrored else G))
    assert not rows[:, layout.widths[0] :].any()


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_regression_is_copied_in_the_order_of_the_chain(mirrored, rng):
    objective = reduce_regression(rng.standard_normal((4, 9)), rng.standard_normal((3, 9)))
    objective.target.flags.writeable = False
    S, T = oriented_regression(objective, mirrored)
    assert S.flags.writeable
    assert T.flags.writeable
    assert S.flags.c_contiguous
    assert T.flags.c_contiguous
    np.testing.assert_array_equal(T.T if mirrored else T, objective.target)
    np.testing.assert_array_equal((S.T if mirrored else S)[0], objective.scale)
