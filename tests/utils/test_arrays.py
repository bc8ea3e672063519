"""Checks of arrays and of their dtypes."""

import numpy as np
import pytest

from fastdln.utils import arrays


@pytest.mark.parametrize("dtype", ["float16", "quadruple", int, "f2", object()])
def test_only_two_dtypes(dtype):
    with pytest.raises(TypeError, match="dtype must be 'float32' or 'float64', not"):
        arrays.float_dtype(dtype)


@pytest.mark.parametrize(
    ("given", "name"),
    [("float32", "float32"), (np.float64, "float64"), ("f4", "float32"), (float, "float64")],
)
def test_a_dtype_has_many_names(given, name):
    assert arrays.float_dtype(given) == np.dtype(name)


def test_none_is_numpys_default_dtype():
    assert arrays.float_dtype(None) == np.float64


def test_a_misspelt_dtype_gets_a_suggestion():
    with pytest.raises(TypeError, match=r"not 'float_32' \(did you mean 'float32'\?\)"):
        arrays.float_dtype("float_32")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([["a"]], TypeError, "X must hold real numbers, not <U1"),
        ([[1j]], TypeError, "X must hold real numbers, not complex128"),
        ([1.0, 2.0], ValueError, r"non-empty matrix, not an array of shape \(2,\)"),
        (np.ones((0, 3)), ValueError, r"non-empty matrix, not an array of shape \(0, 3\)"),
        ([[1.0, np.nan, -np.inf]], ValueError, "X must be finite, but 2 of its 3 entries are not"),
        (np.ma.masked_array(np.ones((2, 2))), TypeError, "X must be an array without a mask"),
    ],
    ids=str,
)
def test_what_is_no_finite_matrix_is_refused(value, error, message):
    for check in (arrays.finite_matrix, arrays.data_matrix):
        with pytest.raises(error, match=message):
            check("X", value)


def test_a_number_beyond_the_dtype_is_refused():
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="X must be finite, but 1 of its 2 entries"),
    ):
        arrays.finite_matrix("X", [[1.0, 1e300]], "float32")


def test_integers_are_converted(dtype):
    found = arrays.finite_matrix("X", [[1, 2]], dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, [[1, 2]])


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_data_are_a_read_only_copy(kind):
    given = np.arange(6).reshape(2, 3).astype(kind)
    for view in (given, given.T, given[:, ::2]):
        found = arrays.data_matrix("X", view)
        assert found.dtype == np.float64
        assert not found.flags.writeable
        assert not np.shares_memory(found, given)
        np.testing.assert_array_equal(found, view)
    assert given.flags.writeable


def test_an_array_is_named_by_its_dtype_and_another_value_by_its_type():
    assert arrays.kind_or_dtype(np.ones(2, "float32")) == "float32"
    assert "int" in arrays.kind_or_dtype(3)
