"""Matrix completion and sensing: refused data. Derivatives are tested in `test_base`."""

import numpy as np
import pytest

import fastdln

BAD = [
    (lambda: fastdln.MatrixCompletion((2, 2), [0, 0], [1, 1], [1.0, 2.0]), ValueError, "repeated"),
    (lambda: fastdln.MatrixCompletion((2, 2), [2], [1], [1.0]), ValueError, "rows must be from 0"),
    (lambda: fastdln.MatrixCompletion((2, 2), [0, 1], [1], [1.0]), ValueError, "one entry per"),
    (lambda: fastdln.MatrixCompletion((0, 2), [0], [1], [1.0]), ValueError, r"shape\[0\]"),
    (lambda: fastdln.MatrixSensing(np.ones((2, 3)), [1, 2]), ValueError, "A must have shape"),
    (lambda: fastdln.MatrixSensing(np.ones((2, 3, 4)), [1]), ValueError, "one value per matrix"),
    (lambda: fastdln.MatrixSensing(np.zeros((1, 3, 4)), [1]), ValueError, "measurements are zero"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_data(make, error, message):
    with pytest.raises(error, match=message):
        make()
