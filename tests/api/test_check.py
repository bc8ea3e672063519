"""The checks at the door, where a test of the functions behind it would not see them all."""

import numpy as np
import pytest

from fastdln.utils import validation as check


@pytest.mark.parametrize("dtype", ["float16", "quadruple", None, int, "f2", object()])
def test_only_two_dtypes(dtype):
    if dtype is None:
        assert check.float_dtype(dtype) == np.float64  # NumPy's own default
        return
    with pytest.raises(TypeError, match="dtype must be 'float32' or 'float64', not"):
        check.float_dtype(dtype)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "3", None])
def test_only_integers_count(value):
    with pytest.raises(TypeError, match="n must be a whole number of at least 1"):
        check.positive_integer("n", value)


def test_numpy_integers_are_integers():
    assert check.positive_integer("n", np.int64(3)) == 3
    assert type(check.positive_integer("n", np.uint8(3))) is int


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match="x must be"):
        check.positive_number("x", value)


def test_devices():
    assert check.device("cpu") == check.device("auto") == "cpu"
    with pytest.raises(ValueError, match="device must be"):
        check.device("cuda:0")
