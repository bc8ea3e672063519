"""Checks of arrays and of their dtypes."""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdln.utils.validation import kind, suggestion


def kind_or_dtype(value: object) -> str:
    """Return the dtype of a NumPy array, or the name of another value's type."""
    return str(value.dtype) if isinstance(value, np.ndarray) else kind(value)


def float_dtype(dtype: DTypeLike) -> np.dtype:
    """Return `dtype` as NumPy's float32 or float64."""
    try:
        found: np.dtype | None = np.dtype(dtype)
    except TypeError:
        found = None
    # NumPy compares None as its default dtype, float64.
    if found is None or found not in (np.dtype("float32"), np.dtype("float64")):
        near = suggestion(dtype, ("float32", "float64")) if isinstance(dtype, str) else ""
        raise TypeError(f"dtype must be 'float32' or 'float64', not {dtype!r}{near}")
    return found


def finite_matrix(name: str, value: ArrayLike, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Return `value` as a finite, non-empty 2-D array of `dtype`; integers are converted."""
    if np.ma.isMaskedArray(value):
        raise TypeError(f"{name} must be an array without a mask: masked entries would count")
    array = np.asarray(value)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty matrix, not an array of shape {array.shape}")
    array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        bad = array.size - int(np.isfinite(array).sum())
        raise ValueError(f"{name} must be finite, but {bad} of its {array.size} entries are not")
    return array


def data_matrix(name: str, value: ArrayLike) -> np.ndarray:
    """Return `value` as `finite_matrix` does in float64, as a read-only copy.

    Results derived from it stay valid when the given array is changed later.
    """
    array = finite_matrix(name, value)
    if np.may_share_memory(array, np.asarray(value)):
        array = array.copy()
    array.flags.writeable = False
    return array
