"""Where the layers of several networks lie in memory."""

import numpy as np
import pytest

from fastdln.kernels.cuda.declarations import LayerColumn
from fastdln.kernels.cuda.packing import Packing


def test_layers_are_padded_end_to_end_and_know_the_next_of_another_shape(dtype):
    packing = Packing([(5, 6, 6, 6, 3), (5, 3)], dtype)
    unit = 16 // np.dtype(dtype).itemsize
    assert [packing.depth(i) for i in range(2)] == [4, 1]
    layers = packing.layers
    np.testing.assert_array_equal(layers[:, LayerColumn.ROWS], [6, 6, 6, 3, 3])
    np.testing.assert_array_equal(layers[:, LayerColumn.COLUMNS], [5, 6, 6, 6, 5])
    assert (layers[:, LayerColumn.STRIDE] % unit == 0).all()
    np.testing.assert_array_equal(layers[:, LayerColumn.UNLIKE_BELOW], [0, 0, 0, 2, 0])
    np.testing.assert_array_equal(layers[:, LayerColumn.UNLIKE_ABOVE], [1, 3, 3, 3, 0])
    # Views do not overlap, and cover all but the padding.
    weights = np.zeros(packing.size, dtype)
    for network in range(2):
        for layer in range(packing.depth(network)):
            packing.view(weights, network, layer)[:] += 1
    assert weights.max() == 1
    assert weights.sum() == 30 + 36 + 36 + 18 + 15


def test_networks_of_one_packing_have_the_same_ends():
    with pytest.raises(ValueError, match="same inputs and outputs"):
        Packing([(5, 3), (4, 3)], "float32")
