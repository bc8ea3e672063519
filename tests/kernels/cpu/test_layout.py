"""Where layers lie in memory, and that their padding is zero."""

import pytest
from packed import Packed, random_layers

from fastdln.kernels.cpu import layout


def test_padded_columns_stay_zero(rng):
    packed = Packed(random_layers((5, 17, 3), rng), "float64")
    whole = packed.weights.copy()
    for w in packed.layers():
        w[:] = 0
    assert not packed.weights.any()
    assert whole.any()


def test_views_are_aligned_to_cache_lines():
    assert layout.aligned_zeros(100, "float32").ctypes.data % 64 == 0
    assert layout.aligned_zeros(1, "float64").ctypes.data % 64 == 0


@pytest.mark.parametrize("size", [0, 1, 1000, 2**17 + 3, 2**19, 3 * 2**20 + 1])
def test_zeros_start_a_cache_line_and_can_be_written(size, dtype):
    zeros = layout.aligned_zeros(size, dtype)
    assert zeros.dtype == dtype
    assert zeros.shape == (size,)
    assert size == 0 or zeros.ctypes.data % 64 == 0
    assert not zeros.any()
    zeros[:] = 1
    assert zeros.sum() == size
    others = layout.aligned_zeros(size, dtype)
    assert not others.any()
