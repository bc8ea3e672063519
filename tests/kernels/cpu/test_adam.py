"""A step by Adam against its definition, for any team."""

import naive
import numpy as np
import pytest
from conftest import RTOL
from packed import Packed, on_team, random_layers

from fastdln.kernels.cpu.adam import gradient_size, update_layers_with_adam
from fastdln.kernels.cpu.groups import AdamStep, Member
from fastdln.kernels.cpu.layout import STRIDE, aligned_zeros
from fastdln.kernels.cpu.two_pass import suffix_products

NUMBER = 3


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("widths", [(7, 4), (5, 17, 3), (20, 31, 67, 5, 16)], ids=str)
def test_weights_and_means(widths, size, dtype, rng):
    weights, mean, square = ([w.astype(dtype) for w in random_layers(widths, rng)] for _ in "123")
    square = [np.abs(w) for w in square]
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    rates, scales = (rng.uniform(0.1, 1, len(weights)).astype(dtype) for _ in range(2))
    packed, m, v = (Packed(layers, dtype) for layers in (weights, mean, square))
    on_team(size, suffix_products, packed.network)
    stride = packed.layout.layers[0, STRIDE]
    C = packed.workspace.C[: packed.layout.q_padded * stride].reshape(-1, stride)
    C[: widths[-1], : widths[0]] = G
    scratch = aligned_zeros(size * gradient_size(packed.layout), dtype) + np.nan
    constants = [packed.layout.dtype.type(x) for x in (0.1, 0.9, 0.999, 1e-8)]
    step = AdamStep(m.weights, v.weights, scratch, rates, scales, *constants)

    def update(member: Member):
        update_layers_with_adam(packed.network, packed.workspace, step, NUMBER, member)

    on_team(size, update)
    gradients = naive.backpropagation(weights, G)
    for i, g in enumerate(gradients):
        g = g / scales[i] + 0.1 * scales[i] * weights[i]
        first, second = 0.9 * mean[i] + 0.1 * g, 0.999 * square[i] + 0.001 * g**2
        root = np.sqrt(second / (1 - 0.999**NUMBER)) + 1e-8
        moved = weights[i] - rates[i] * first / (1 - 0.9**NUMBER) / root
        atol = RTOL[dtype] * (1 + np.abs(g).max() ** 2)
        np.testing.assert_allclose(m.layers()[i], first, rtol=0, atol=atol)
        np.testing.assert_allclose(v.layers()[i], second, rtol=0, atol=atol)
        size_of_step = np.abs(first / root).max()
        np.testing.assert_allclose(packed.layers()[i], moved, rtol=0, atol=atol * size_of_step)
    assert packed.padding() == pytest.approx(0, abs=1e-9 * packed.layout.size)
