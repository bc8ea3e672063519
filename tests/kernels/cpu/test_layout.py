"""Where layers lie in memory, and that their padding is zero."""

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
