"""The fingerprint by which a store recognises a problem: a digest of its attributes."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MemberDescriptorType
from typing import Any

import numpy as np

from fastdln.objectives.base import Objective


def digest(problem: Objective) -> str:
    """Return the SHA-256 of a problem's attributes, as hexadecimal digits.

    Attributes are hashed in the order of their names: arrays with their shapes, numbers, text, and
    lists and dicts of these. Cached properties, which are computed from them, and code are left
    out.

    Raises
    ------
    TypeError
        If an attribute is of another type, whose equality cannot be checked in a later process.
    """
    found = hashlib.sha256()
    for name, value in sorted(getattr(problem, "__dict__", {}).items()):
        if not isinstance(getattr(type(problem), name, None), cached_property):
            found.update(f"{name}={_as_text(name, value)};".encode())
    for name, value in _slots(problem):
        found.update(f"{name}={_as_text(name, value)};".encode())
    return found.hexdigest()


def _slots(problem: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name, with its declaring class, and the value of every slot that is set."""
    for parent in type(problem).__mro__:
        for name, member in sorted(vars(parent).items()):
            if isinstance(member, MemberDescriptorType) and hasattr(problem, name):
                yield f"{parent.__name__}.{name}", member.__get__(problem)


def _as_text(name: str, value: Any) -> str:
    """Return a text that is the same for equal values in every process."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
        array = np.ascontiguousarray(value)
        bits = hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return f"{array.dtype.name}{array.shape}{bits.hexdigest()}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_as_text(name, v) for v in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_as_text(name, k)}:{_as_text(name, v)}" for k, v in value.items())
        return f"{{{','.join(sorted(pairs))}}}"
    if value is None or isinstance(value, bool | int | float | complex | str | np.generic):
        return str(value)
    raise TypeError(
        f"a store tells problems apart by what they hold: arrays, numbers, text, and lists and"
        f" dicts of these, but {name} is a {type(value).__name__}; sweep without a store, or hold"
        " its data"
    )
