"""Chains of layers for the tests of `fastdln.chain`, and their comparison."""

import numpy as np
from packed import random_layers

RTOL = {"float32": 2e-5, "float64": 5e-14}


def layers_of(widths, dtype, rng):
    return [w.astype(dtype) for w in random_layers(widths, rng)]


def close(got, expected, dtype):
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=RTOL[dtype] * (1 + abs(expected).max()))
