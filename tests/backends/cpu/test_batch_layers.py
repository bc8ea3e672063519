"""Layers written into lanes are read from them, however they are stored and given."""

import numpy as np
import pytest

from fastdln.backends.cpu.batch_layers import LaneLayers
from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.initializers.layers import Draw, gaussian_layer
from fastdln.kernels.cpu.batched import new_batched_chain


@pytest.mark.parametrize("widths", [(4, 7, 3), (2, 7, 5), (4, 3)], ids=str)
def test_layers_are_those_written(widths, dtype, rng):
    draw = Draw(widths, "gaussian", 11, np.dtype(dtype), 1.5)
    deferred = [gaussian_layer(draw, i) for i in range(draw.depth)]
    drawn = [layer.rows(0, layer.shape[0]) for layer in deferred]
    chain = new_batched_chain(chain_layout(widths, np.dtype(dtype)))
    layers = LaneLayers(chain, widths[0] < widths[-1])
    other = [rng.standard_normal(w.shape).astype(dtype) for w in drawn]
    layers.write(0, deferred)
    layers.write(1, other)
    layers.write(2, [other[0], *deferred[1:]])
    layers.draw()
    for lane, expected in enumerate((drawn, other, [other[0], *drawn[1:]])):
        read = layers.read(lane, chain.weights)
        for i, layer in enumerate(expected):
            np.testing.assert_array_equal(read(i), layer)
    read = layers.read(1, chain.weights)
    layers.load(1, chain.weights, drawn)
    layers.draw()  # nothing is left to draw
    np.testing.assert_array_equal(read(0), other[0])  # a copy
    np.testing.assert_array_equal(layers.read(1, chain.weights)(0), drawn[0])
