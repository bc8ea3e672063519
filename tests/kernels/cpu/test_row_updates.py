"""The traversal of row blocks, with an optimiser that adds the gradient to an array."""

from typing import NamedTuple

import naive
import numpy as np
import pytest
from conftest import RTOL
from packed import Packed, on_team, random_layers

from fastdln.kernels.cpu.gemm import ACCUMULATE, ONE
from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.jit import OPTIONS, part
from fastdln.kernels.cpu.layout import OFFSET, STRIDE
from fastdln.kernels.cpu.row_updates import update_by_rows
from fastdln.kernels.cpu.two_pass import add_gradient, suffix_products

# One layer, width 1, more rows than one block, rectangular hidden layers, q padded.
SHAPES = [(7, 4), (1, 1, 1), (5, 17, 3), (9, 150, 11), (20, 31, 67, 5, 16)]


class Sums(NamedTuple):
    """Sums of gradients, laid out as the weights, and how often each weight was updated."""

    gradients: np.ndarray
    updates: np.ndarray


def add_block(network, C, step, layer, row, rows):
    stride = network.layers[layer, STRIDE]
    w = network.layers[layer, OFFSET] + row * stride
    out = Operand(step.gradients, w, stride, ONE)
    add_gradient(network, C, out, layer, row, rows, ACCUMULATE)
    for i in range(w, w + rows * stride):
        step.updates[i] += 1
        network.weights[i] = 0  # must not be read again


def add_row(weights, gradient, step, layer, w, g, size):
    for j in range(size):
        step.gradients[w + j] += gradient[g + j]
        step.updates[w + j] += 1
        weights[w + j] = 0


@pytest.fixture(scope="module")
def update():
    """A kernel that traverses the rows; its own functions cannot be cached on disk."""
    import numba

    block, row = part(add_block), part(add_row)

    def traverse(network, workspace, step, member):
        update_by_rows(block, row, network, workspace, step, member)

    return numba.njit(**OPTIONS | {"cache": False})(traverse)


@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_row_is_updated_once_by_its_gradient(widths, team, update, dtype, rng):
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    packed, sums = Packed(weights, dtype), Packed([np.zeros_like(w) for w in weights], dtype)
    counts = Packed([np.zeros_like(w) for w in weights], dtype)
    on_team(team, suffix_products, packed.network)
    stride = packed.layout.layers[0, STRIDE]
    C = packed.workspace.C[: packed.layout.q_padded * stride].reshape(-1, stride)
    C[: widths[-1], : widths[0]] = G
    step = Sums(sums.weights, counts.weights)
    on_team(team, update, packed.network, packed.workspace, step)
    for got, g in zip(sums.layers(), naive.backpropagation(weights, G), strict=True):
        np.testing.assert_allclose(got, g, rtol=0, atol=RTOL[dtype] * (1 + np.abs(g).max()))
    for updates in counts.layers():
        assert (updates == 1).all()
    assert counts.weights.max() == 1  # of the padding, no part twice
    assert not packed.weights.any()
