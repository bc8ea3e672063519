"""Relative losses of a sweep."""

import numpy as np
from plot_cases import dataset

from fastdln import plot


def test_overflow_at_the_first_step_is_divergence_and_a_perfect_fit_is_not():
    ds = dataset()
    ds["loss"].values[0] = ds["initial_loss"].values[0] = np.inf
    ds["loss"].values[1] = ds["initial_loss"].values[1] = 0
    ratio = plot.relative_loss(ds)
    assert np.isposinf(ratio.sel(init="gaussian")).all()
    assert (ratio.sel(init="orthogonal") == 0).all()
