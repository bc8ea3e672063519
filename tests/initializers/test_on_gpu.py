"""Layers drawn on a GPU, its kernels run on the CPU, are those drawn on the CPU."""

import numpy as np
import pytest
from cuda_cases import ShimLauncher

from fastdln.initializers.layers import Draw, draw_layers
from fastdln.initializers.on_gpu import gaussian_layers, orthogonal_layers


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_layers_drawn_on_a_gpu_are_those_of_the_cpu(init, gain, dtype):
    draw = Draw((8, 9, 9, 9, 9, 3), init, 123, np.dtype(dtype), gain)
    drawn = {"gaussian": gaussian_layers, "orthogonal": orthogonal_layers}[init]
    ours = list(drawn(ShimLauncher(dtype), draw))
    expected = list(draw_layers(draw))
    for got, w in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, w, rtol=0, atol=100 * np.finfo(dtype).eps)
    if init == "gaussian":
        np.testing.assert_array_equal(ours[2], expected[2])
