"""The arguments of a sweep: the values of each axis, and the options that all cells share."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastdln.config import INITS, SWEPT_INITS, SWEPT_SEEDS, Option, TrainConfig
from fastdln.sweeps.grid import AXES, Grid
from fastdln.utils import validation

# The axes of a sweep where they are not given.
_DEFAULTS = {"init": SWEPT_INITS, "seed": SWEPT_SEEDS}


def check_names(options: Mapping[str, Any], arguments: Iterable[str]) -> None:
    """Refuse keyword arguments that `fastdln.sweep` does not have.

    Parameters
    ----------
    options : mapping
        Its further keyword arguments.
    arguments : iterable of str
        The names in its signature, which may be suggested.

    Raises
    ------
    TypeError
        For an unknown name; suggests the nearest.
    """
    known = {name: option for name, option in TrainConfig.options().items() if _is_swept(option)}
    shared = [name for name, option in known.items() if not option.axis]
    for name in options:
        if name not in known:
            hint = validation.suggestion(name, (*arguments, *shared))
            raise TypeError(f"options must be among {', '.join(shared)}, not {name!r}{hint}")


def _is_swept(option: Option) -> bool:
    return option.recorded != "never"


def split(given: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the values of every axis; remove values under singular names from `options`.

    Parameters
    ----------
    given : mapping of str to object
        The values given under the plural names, by axis.
    options : dict
        Further keyword arguments of `fastdln.sweep`.

    Raises
    ------
    TypeError
        If an axis is given twice, or has no values and no default.
    """
    found = {}
    for name in AXES:
        default, singular = _DEFAULTS.get(name), options.pop(name, None)
        if singular is not None and given[name] is not default and given[name] is not None:
            raise TypeError(f"sweep() got both {name} and {name}s; give one of them")
        values = given[name] if singular is None else singular
        found[name] = default if values is None else values
        if found[name] is None:
            raise TypeError(f"sweep() needs {name}s, the values of {name}")
    return found


def grid(given: Mapping[str, Any], record_steps: tuple[int, ...]) -> Grid:
    """Return the grid of these values of the axes, checked."""
    return Grid(
        init=_names("inits", given["init"]),
        width=_numbers("widths", given["width"], least=1),
        depth=_numbers("depths", given["depth"], least=1),
        seed=_numbers("seeds", given["seed"], least=0),
        step=record_steps,
    )


def _numbers(name: str, values: Any, least: int) -> tuple[int, ...]:
    """Return the values of an axis as distinct whole numbers that fit in int64."""
    listed = (values,) if isinstance(values, int | np.integer) else values
    found = tuple(
        validation.integer(f"every one of {name}", v, least)
        for v in validation.listed(name, listed)
    )
    if max(found) >= 2**63:
        raise ValueError(f"every one of {name} must be less than 2**63, not {max(found)}")
    return validation.distinct(name, found)


def _names(name: str, values: Any) -> tuple[str, ...]:
    listed = (values,) if isinstance(values, str) else validation.listed(name, values)
    return validation.distinct(
        name, tuple(validation.one_of(f"every one of {name}", v, INITS) for v in listed)
    )
