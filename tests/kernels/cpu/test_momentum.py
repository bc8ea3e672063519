"""A step by momentum against its definition, for any team."""

import naive
import numpy as np
import pytest
from conftest import RTOL
from packed import Packed, on_team, random_layers

from fastdln.kernels.cpu.groups import MomentumStep
from fastdln.kernels.cpu.layout import STRIDE
from fastdln.kernels.cpu.momentum import update_layers_with_momentum
from fastdln.kernels.cpu.two_pass import suffix_products


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("widths", [(7, 4), (5, 17, 3), (20, 31, 67, 5, 16)], ids=str)
def test_weights_and_velocity(widths, size, nesterov, dtype, rng):
    weights, old = ([w.astype(dtype) for w in random_layers(widths, rng)] for _ in range(2))
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    rates, decays = (rng.uniform(0.1, 1, len(weights)).astype(dtype) for _ in range(2))
    packed, velocity = Packed(weights, dtype), Packed(old, dtype)
    on_team(size, suffix_products, packed.network)
    stride = packed.layout.layers[0, STRIDE]
    C = packed.workspace.C[: packed.layout.q_padded * stride].reshape(-1, stride)
    C[: widths[-1], : widths[0]] = G
    mu = packed.layout.dtype.type(0.5)
    step = MomentumStep(velocity.weights, rates, decays, mu, nesterov)
    on_team(size, update_layers_with_momentum, packed.network, packed.workspace, step)
    gradients = naive.backpropagation(weights, G)
    for i, (w, v, g) in enumerate(zip(weights, old, gradients, strict=True)):
        g = g + decays[i] * w
        new = mu * v + g
        moved = w - rates[i] * (g + mu * new if nesterov else new)
        atol = RTOL[dtype] * (1 + np.abs(g).max())
        np.testing.assert_allclose(velocity.layers()[i], new, rtol=0, atol=atol)
        np.testing.assert_allclose(packed.layers()[i], moved, rtol=0, atol=atol)
    assert packed.padding() == pytest.approx(0, abs=1e-9 * packed.layout.size)
