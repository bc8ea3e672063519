"""The grid of a sweep: its axes, its cells, and the dataset that holds their results."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

AXES = ("init", "width", "depth", "seed")
STATUSES = ("pending", "completed", "converged", "diverged")

# name: (dtype, fill value, attributes). The attributes are part of every store, so that stores of
# earlier versions have the same. All but "loss" have one value a cell.
VARIABLES: dict[str, tuple[str, Any, dict[str, str]]] = {
    "loss": (
        "float64",
        np.nan,
        {
            "long_name": "squared loss ½‖MX − Y‖²",
            "comment": "after convergence the last value reached, after divergence inf",
        },
    ),
    "initial_loss": ("float64", np.nan, {"long_name": "squared loss before any step"}),
    "learning_rate": ("float64", np.nan, {"long_name": "step size η for the paper's weights"}),
    "steps_taken": ("int64", -1, {"long_name": "gradient steps taken", "comment": "-1: pending"}),
    "seconds": (
        "float64",
        np.nan,
        {
            "long_name": "training time",
            "units": "s",
            "comment": "drawing included; times of networks trained side by side overlap",
        },
    ),
    "method": ("str", "", {"long_name": "how the cell was trained"}),
    "status": ("str", "pending", {"long_name": "how training ended", "values": " ".join(STATUSES)}),
}

COORDINATES: dict[str, dict[str, str]] = {
    "init": {"long_name": "initialisation"},
    "width": {"long_name": "width of the hidden layers"},
    "depth": {"long_name": "number of layers"},
    "seed": {"long_name": "seed of the network"},
    "step": {"long_name": "gradient step"},
}


@dataclass(frozen=True)
class Cell:
    """One network of a sweep, and its index in the grid."""

    index: tuple[int, int, int, int] = field(repr=False)
    init: str
    width: int
    depth: int
    seed: int

    def __str__(self) -> str:
        return f"{self.init} width {self.width} depth {self.depth}"


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, each without repetition, and the steps whose loss is kept."""

    init: tuple[str, ...]
    width: tuple[int, ...]
    depth: tuple[int, ...]
    seed: tuple[int, ...]
    step: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of values on each axis of cells."""
        return len(self.init), len(self.width), len(self.depth), len(self.seed)

    def cells(self) -> Iterator[Cell]:
        """Yield every cell, the last axis fastest."""
        for a, b, c, d in np.ndindex(*self.shape):
            yield Cell((a, b, c, d), self.init[a], self.width[b], self.depth[c], self.seed[d])

    def coordinates(self) -> dict[str, np.ndarray]:
        """Return the axes as arrays: strings for `init`, int64 for the others."""
        kinds = {"init": "str"}
        return {k: np.array(getattr(self, k), dtype=kinds.get(k, "int64")) for k in COORDINATES}

    def layout(self, name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the dimensions and the shape of a variable."""
        if name == "loss":
            return (*AXES, "step"), (*self.shape, len(self.step))
        return AXES, self.shape

    def empty(self) -> dict[str, np.ndarray]:
        """Return every variable with all cells pending."""
        return {
            name: np.full(self.layout(name)[1], fill, dtype=_in_memory(kind))
            for name, (kind, fill, _) in VARIABLES.items()
        }

    @property
    def bytes(self) -> int:
        """Memory of the results, in bytes."""
        return sum(
            math.prod(self.layout(name)[1]) * _in_memory(kind).itemsize
            for name, (kind, _, _) in VARIABLES.items()
        )

    def dataset(self, values: Mapping[str, np.ndarray], attributes: dict[str, Any]) -> "xr.Dataset":
        """Return the results as an `xarray.Dataset`."""
        import xarray as xr

        return xr.Dataset(
            {name: (self.layout(name)[0], values[name], VARIABLES[name][2]) for name in VARIABLES},
            {k: (k, v, COORDINATES[k]) for k, v in self.coordinates().items()},
            attributes,
        )


def _in_memory(kind: str) -> np.dtype:
    return np.dtype("<U16" if kind == "str" else kind)


def default_record_steps(steps: int, count: int = 60) -> tuple[int, ...]:
    """Return 0, about `count` steps evenly spread in logarithm, and `steps`."""
    spread = np.unique(np.geomspace(1, max(steps, 1), count).round().astype(np.int64))
    return (0, *(int(s) for s in spread if s < steps), *((steps,) if steps else ()))


def recorded(loss: np.ndarray, status: str, steps: np.ndarray) -> np.ndarray:
    """Return the losses at `steps` of a run that may have stopped before the last of them.

    A converged run keeps its last loss; a diverged one is infinite from its last step on,
    whether its last loss was inf or nan.
    """
    kept = loss[np.minimum(steps, loss.size - 1)].astype(np.float64)
    if status == "diverged":
        kept[steps >= loss.size - 1] = np.inf
    return kept
