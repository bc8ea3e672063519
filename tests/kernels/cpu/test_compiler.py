"""Parts are inlined, parts of parts too, and mean the same as in Python."""

import numba
import numpy as np
import pytest

from fastdln.kernels.cpu import jit


@jit.part
def scaled(x: np.ndarray, i: int, factor: float) -> float:
    value = x[i] * factor
    if value < 0:
        value = -value
    return value


@jit.part
def total(x: np.ndarray, factor: float) -> float:
    value = 0.0
    for i in range(x.size):
        value += scaled(x, i, factor)
    return value


@jit.kernel
def difference(x: np.ndarray, y: np.ndarray) -> float:
    value = total(x, 2.0)
    return value - total(y, -3.0) + scaled(y, 0, 1.0)


def test_a_kernel_of_nested_parts_with_equal_names_gives_what_python_gives():
    x, y = np.array([1.0, -2.0, 4.0]), np.array([-5.0, 0.5])
    assert difference(x, y) == 2 * 7 - 3 * 5.5 + 5


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_parts_are_not_compiled_on_their_own():
    difference(np.ones(2), np.ones(2))
    assert scaled.signatures == total.signatures == []
