"""The cross-entropy: data that are refused. Its derivatives are tested in `test_base`."""

import numpy as np
import pytest

import fastdln

BAD = [
    (lambda: fastdln.Logistic([[1.0, 2.0]], [0.5, 1]), TypeError, "labels must be whole numbers"),
    (lambda: fastdln.Logistic([[1.0, 2.0]], [0]), ValueError, r"labels must have shape \(2,\)"),
    (lambda: fastdln.Logistic([[1.0, 2.0]], [0, 3], classes=3), ValueError, "from 0 to 2"),
    (lambda: fastdln.Logistic([[1.0, np.nan]], [0, 1]), ValueError, "X must be finite"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_data(make, error, message):
    with pytest.raises(error, match=message):
        make()
