"""What tells problems apart in a store: a digest of everything that they hold."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from .objective import Objective


def digest(problem: Objective) -> str:
    """Return the SHA-256 of everything that a problem holds, as hexadecimal digits.

    Its attributes count in the order of their names: arrays with their shapes, numbers, text, and
    lists and dicts of these. What it has computed from them (cached properties) does not, nor does
    its code.

    Raises
    ------
    TypeError
        If it holds something else, of which nobody can tell whether it is the same again.
    """
    found = hashlib.sha256()
    for name, value in sorted(getattr(problem, "__dict__", {}).items()):
        if not isinstance(getattr(type(problem), name, None), cached_property):
            found.update(f"{name}={_written(name, value)};".encode())
    for name in _slots(type(problem)):
        found.update(f"{name}={_written(name, getattr(problem, name, None))};".encode())
    return found.hexdigest()


def _slots(kind: type) -> list[str]:
    slots = [getattr(parent, "__slots__", ()) for parent in kind.__mro__]
    names = {n for s in slots for n in ([s] if isinstance(s, str) else s)}
    return sorted(names - {"__dict__", "__weakref__"})


def _written(name: str, value: Any) -> str:
    """Return a text that is the same for equal values in every process."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
        array = np.ascontiguousarray(value)
        bits = hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return f"{array.dtype.name}{array.shape}{bits.hexdigest()}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_written(name, v) for v in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_written(name, k)}:{_written(name, v)}" for k, v in value.items())
        return f"{{{','.join(sorted(pairs))}}}"
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        return str(value)
    raise TypeError(
        f"a store tells problems apart by what they hold: arrays, numbers, text, and lists and"
        f" dicts of these, but {name} is a {type(value).__name__}; sweep without a store, or hold"
        " its data"
    )
