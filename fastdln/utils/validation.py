"""Argument checks: each error states the allowed values, the given value and the nearest name.

They import no NumPy, so that the command line answers mistakes at once; see `arrays` for the rest.
"""

import difflib
import math
import numbers
import operator
import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex, TypeVar, cast

_T = TypeVar("_T")

# Names that other libraries, papers and earlier versions use → this package's: keyword arguments,
# then values. Where a function takes the plural (`fastdln.sweep`), that is suggested.
_SYNONYMS = {
    "lr": "learning_rate",
    "eta": "learning_rate",
    "stepsize": "learning_rate",
    "initialisation": "init",
    "initialization": "init",
    "initialiser": "init",
    "initializer": "init",
    "layers": "depth",
    "nlayers": "depth",
    "numlayers": "depth",
    "hidden": "width",
    "hiddensize": "width",
    "units": "width",
    "n": "width",
    "epochs": "steps",
    "nsteps": "steps",
    "numsteps": "steps",
    "iterations": "steps",
    "maxiter": "steps",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "batch": "batch_size",
    "opt": "optimizer",
    "optimiser": "optimizer",
    "randomstate": "seed",
    "rng": "seed",
    "tol": "tolerance",
    "njobs": "threads",
    "numthreads": "threads",
    "nthreads": "threads",
    "sgd": "gd",
    "gradientdescent": "gd",
    "haar": "orthogonal",
    "normal": "gaussian",
    "full": "dense",
}


def kind(value: object) -> str:
    """Return the name of a value's type, with its library's where it has one."""
    library = type(value).__module__.split(".")[0]
    name = type(value).__name__
    return name if library == "builtins" else f"{library}.{name}"


def is_bool(value: object) -> bool:
    """Return whether `value` is a bool of Python or NumPy, which need not be imported for that."""
    kind_of = type(value)
    numpys = kind_of.__module__ == "numpy" and kind_of.__name__ in ("bool", "bool_")
    return isinstance(value, bool) or numpys


def integer(name: str, value: object, least: int) -> int:
    """Return `value` as an int of at least `least`; bools and non-integers are refused."""
    if is_bool(value):
        raise TypeError(f"{name} must be a whole number of at least {least}, not the bool {value}")
    try:
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number of at least {least}, not {value!r}"
            f" of type {type(value).__name__}"
        ) from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


def positive_integer(name: str, value: object) -> int:
    """Return `value` as an int ≥ 1."""
    return integer(name, value, 1)


def non_negative_integer(name: str, value: object) -> int:
    """Return `value` as an int ≥ 0."""
    return integer(name, value, 0)


def real_number(name: str, value: object, allowed: str) -> float:
    """Return `value` as a finite float; `allowed` names the range in the error."""
    if is_bool(value) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, not {value!r} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {allowed}, not {number}")
    return number


def positive_number(name: str, value: object) -> float:
    """Return `value` as a finite float > 0."""
    number = real_number(name, value, "a finite number greater than 0")
    if number <= 0:
        raise ValueError(f"{name} must be a finite number greater than 0, not {number}")
    return number


def non_negative_number(name: str, value: object) -> float:
    """Return `value` as a finite float ≥ 0."""
    number = real_number(name, value, "a finite number of at least 0")
    if number < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, not {number}")
    return number


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the names `allowed`; the error suggests the nearest."""
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        near = suggestion(value, allowed) if isinstance(value, str) else ""
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{near}"
        )
    return value


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"``, x the one of `names` meant by `name`, or ``""``."""
    meant = nearest(name, names)
    return "" if meant is None else f" (did you mean {meant!r}?)"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` meant by `name`: a synonym, its plural or singular, or the like."""
    known = {_normalised(candidate): candidate for candidate in names}
    meant = _normalised(_SYNONYMS.get(_normalised(name), name))
    found = [c for c in (meant, meant + "s", meant.rstrip("s")) if c in known]
    found = found or difflib.get_close_matches(meant, known, n=1)
    return known[found[0]] if found else None


def _normalised(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def listed(name: str, values: Iterable[_T]) -> list[_T]:
    """Return `values` as a list of at least one."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {values!r} of type {type(values).__name__}")
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} must have at least one value")
    return listed


def distinct(name: str, values: Sequence[_T]) -> tuple[_T, ...]:
    """Return `values` if none is repeated."""
    repeated = [v for v in values if values.count(v) > 1]
    if repeated:
        raise ValueError(f"{name} must be distinct, but {repeated[0]!r} is given more than once")
    return tuple(values)


def function(name: str, value: _T) -> _T:
    """Return `value` if it is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, not {value!r} of type {type(value).__name__}")
    return value
