"""A made-up sweep and the parts of a figure, for the tests of figures."""

import numpy as np

from fastdln.sweeps.grid import VARIABLES, Grid

GRID = Grid(("gaussian", "orthogonal"), (3, 8), (1, 4, 6), (0, 1, 2), (0, 10, 50))


def dataset():
    """Return a made-up sweep: relative loss 10⁻¹ at step 10 and 10⁻³ at step 50 everywhere."""
    values = GRID.empty()
    values["initial_loss"][:] = 7.0
    values["loss"][:] = 7.0 * np.array([1, 1e-1, 1e-3])
    values["status"][:] = "completed"
    values["steps_taken"][:] = 50
    return GRID.dataset(values, {})


def marked(ds, index, status):
    """Set cells to a status, and their losses to the value that a sweep stores for it."""
    ds = ds.copy(deep=True)
    ds["status"].values[index] = status
    ds["loss"].values[index] = {"diverged": np.inf, "pending": VARIABLES["loss"][1]}[status]
    return ds


def panels(figure):
    return [ax for ax in figure.axes if ax.get_title(loc="left")]


def legend_text(figure):
    found = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return " | ".join(found)
