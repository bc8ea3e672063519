"""The small sweep that the tests of sweeps, stores and plots share."""

import numpy as np

from fastdln.objectives.regression import Regression
from fastdln.sweeps.sweep import sweep

WIDTHS, DEPTHS = (3, 8), (1, 4, 6)


def problem(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 4))
    return Regression(X, rng.standard_normal((3, 6)) @ X)


def run(**options):
    given = {"widths": WIDTHS, "depths": DEPTHS, "steps": 50, "progress": False, **options}
    return sweep(given.pop("problem", None) or problem(), **given)


def same(a, b):
    """Whether two sweeps agree bit for bit in all but timings."""
    return a.drop_vars("seconds").identical(b.drop_vars("seconds"))
