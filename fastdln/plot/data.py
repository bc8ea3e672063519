"""Prepare the data of a sweep for figures: checks, all dimensions, relative losses."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fastdln.utils import validation

if TYPE_CHECKING:
    import xarray as xr


def relative_loss(dataset: "xr.Dataset") -> "xr.DataArray":
    """Return ``ℓ(t)/ℓ(0)``, the median over seeds; nan where not all seeds are trained yet."""
    loss = dataset["loss"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = loss / dataset["initial_loss"]
    # inf/inf: the run overflowed at its first step. 0/0: it started at a loss of zero.
    ratio = ratio.where(loss != np.inf, np.inf).where(loss != 0, 0.0)
    return ratio.median("seed", skipna=False)


def sweep_dataset(dataset: "xr.Dataset") -> "xr.Dataset":
    """Return the dataset with all five dimensions: selected scalars become dimensions again."""
    wanted = ("loss", "initial_loss", "status")
    if not hasattr(dataset, "data_vars"):
        raise TypeError(f"dataset must be the Dataset of a sweep, not {type(dataset).__name__}")
    missing = [name for name in wanted if name not in dataset.data_vars]
    if missing:
        raise ValueError(f"dataset must be that of a sweep, but it has no variable {missing[0]!r}")
    for dim in ("init", "width", "depth", "seed"):
        if dim not in dataset.dims:
            if dim not in dataset.coords:
                raise ValueError(f"dataset must be that of a sweep, but it has no {dim!r}")
            dataset = dataset.expand_dims(dim)
    if "step" not in dataset.dims:
        dataset = dataset.assign(loss=dataset["loss"].expand_dims("step"))
    if 0 in dataset["loss"].shape:
        raise ValueError("dataset must have at least one network and one step")
    return dataset


def recorded_steps(dataset: "xr.Dataset", steps: Iterable[int] | None) -> list[int]:
    """Return the steps to show, all of them recorded; the last one where `steps` is None."""
    recorded = [int(s) for s in dataset["step"].values]
    if steps is None:
        return recorded[-1:]
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"steps must be a list of recorded steps, not {steps!r}")
    chosen = [validation.integer("every one of steps", s, 0) for s in steps]
    for step in chosen:
        if step not in recorded:
            raise ValueError(f"step {step} was not recorded; recorded are {_few(recorded)}")
    if not chosen:
        raise ValueError("steps must have at least one value")
    return chosen


def _few(values: list[int]) -> str:
    shown = values if len(values) <= 12 else [*values[:5], "…", *values[-5:]]
    return ", ".join(map(str, shown))
