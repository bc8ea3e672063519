"""The arguments of a sweep: the values of each axis, and the options that all cells share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdln.config import INITS as ALL_INITS
from fastdln.config import TrainConfig
from fastdln.sweeps.grid import AXES, Grid
from fastdln.utils import validation

# The axes of a sweep where they are not given.
INITS = ("gaussian", "orthogonal")
SEEDS = (0,)
_DEFAULTS = {"width": None, "depth": None, "init": INITS, "seed": SEEDS}


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
    found = dict(given)
    for name in AXES:
        if name in options:
            if found[name] is not _DEFAULTS[name]:
                raise TypeError(f"sweep() got both {name} and {name}s; give one of them")
            found[name] = options.pop(name)
        if found[name] is None:
            raise TypeError(f"sweep() needs {name}s, the values of {name}")
    return found


def shared_config(options: dict[str, Any]) -> TrainConfig:
    """Return the options that all cells share.

    Raises
    ------
    TypeError, ValueError
        For an option that `fastdln.sweep` does not have, or a value out of range.
    """
    known = TrainConfig.options()
    allowed = [n for n, details in known.items() if details.recorded != "never"]
    for name in options:
        if name not in allowed:
            arguments = (
                "widths",
                "depths",
                "inits",
                "seeds",
                "record_steps",
                "store",
                "client",
                "progress",
                "workers",
            )
            shared = [n for n in allowed if not known[n].axis]
            hint = validation.suggestion(name, (*arguments, *shared))
            raise TypeError(f"options must be among {', '.join(shared)}, not {name!r}{hint}")
    return TrainConfig(**options)


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
        name, tuple(validation.one_of(f"every one of {name}", v, ALL_INITS) for v in listed)
    )
