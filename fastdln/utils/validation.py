"""Checks at the door: each says in one sentence what was given and what is allowed."""

import math
import numbers
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def kind(value: Any) -> str:
    """Return the name of a value's type, with its library's where it has one."""
    library = type(value).__module__.split(".")[0]
    name = type(value).__name__
    return name if library == "builtins" else f"{library}.{name}"


def kind_or_dtype(value: Any) -> str:
    """Return the dtype of a NumPy array, or the name of another value's type."""
    return str(value.dtype) if isinstance(value, np.ndarray) else kind(value)


def integer(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`; bools and non-integers are refused."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a whole number of at least {least}, not the bool {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
            f" of type {type(value).__name__}"
        ) from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def positive_integer(name: str, value: Any) -> int:
    """Return `value` as an int ≥ 1."""
    return integer(name, value, 1)


def non_negative_integer(name: str, value: Any) -> int:
    """Return `value` as an int ≥ 0."""
    return integer(name, value, 0)


def real_number(name: str, value: Any, allowed: str) -> float:
    """Return `value` as a finite float; `allowed` names the range in the error."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, not {value!r} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {allowed}, not {number}")
    return number


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a finite float > 0."""
    number = real_number(name, value, "a finite number greater than 0")
    if number <= 0:
        raise ValueError(f"{name} must be a finite number greater than 0, not {number}")
    return number


def non_negative_number(name: str, value: Any) -> float:
    """Return `value` as a finite float ≥ 0."""
    number = real_number(name, value, "a finite number of at least 0")
    if number < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, not {number}")
    return number


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the names `allowed`."""
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value


def listed(name: str, values: Any) -> list[Any]:
    """Return `values` as a list of at least one."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {values!r} of type {type(values).__name__}")
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} must have at least one value")
    return listed


def distinct(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return `values` if none is repeated."""
    repeated = sorted({v for v in values if values.count(v) > 1})
    if repeated:
        raise ValueError(f"{name} must be distinct, but {repeated[0]!r} is given more than once")
    return tuple(values)


def float_dtype(dtype: Any) -> np.dtype:
    """Return `dtype` as NumPy's float32 or float64."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    # NumPy compares None as its default dtype, float64.
    if found is None or found not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    return found


def finite_matrix(name: str, value: Any, dtype: Any = np.float64) -> np.ndarray:
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


def data_matrix(name: str, value: Any) -> np.ndarray:
    """Return `value` as `finite_matrix` does in float64, in memory of its own and for reading only.

    What is computed from it once stays right whatever becomes of the array that was given.
    """
    array = finite_matrix(name, value)
    if np.may_share_memory(array, np.asarray(value)):
        array = array.copy()
    array.flags.writeable = False
    return array


def function(name: str, value: Any) -> Any:
    """Return `value` if it is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, not {value!r} of type {type(value).__name__}")
    return value


def device_name(name: Any) -> str:
    """Return ``"cpu"``, ``"gpu"`` or ``"gpu:N"``; whether there is such a card is not asked.

    ``"auto"`` is the CPU for now: the kernels for a card have been compiled and tested on the CPU,
    but not yet measured on a card, so a card is used only where it is asked for.
    """
    if name in ("cpu", "auto"):
        return "cpu"
    if isinstance(name, str) and re.fullmatch(r"gpu(:\d+)?", name):
        return name
    raise ValueError(f"device must be 'cpu', 'gpu', 'gpu:N' or 'auto', not {name!r}")


def device(name: Any) -> str:
    """Return the device that `name` asks for, as `device_name` does.

    Raises
    ------
    ValueError
        For another name, or a card that this machine does not have.
    ImportError, RuntimeError
        If a card was asked for and CuPy, a driver or any card is missing; says which.
    """
    name = device_name(name)
    if name != "cpu":
        from fastdln.backends.gpu.device import require_gpu

        require_gpu(name)
    return name
