"""The zigzag step against naive training in float64, and against itself on other teams."""

import naive
import numpy as np
import pytest
from packed import PackedRegression, naive_step, regression_case

from fastdln.kernels.cpu.zigzag import descend_zigzag
from fastdln.kernels.cpu.zigzag_workspace import zigzag_workspace

# Depth 1 and 2, width 1, q of 1, 2, 5, 10, 17, d below, at and above a multiple of four, widths
# around a vector, a block of rows and of terms, rectangular hidden layers.
SHAPES = [
    (1, 1), (7, 4), (1, 1, 1), (5, 17, 3), (16, 33, 10), (9, 13, 1), (20, 31, 67, 5, 16),
    (17, 65, 64, 2), (17, 12, 17), (40, 129, 10), (5, 7, 7, 7, 7, 5), (18, 70, 150, 9),
]  # fmt: skip
# Some steps of rounding on top of each other, relative to the first loss.
RTOL = {"float32": 1e-5, "float64": 1e-13}
STEPS = 5


class Zigzag(PackedRegression):
    """A packed regression with the zigzag step's workspace."""

    def __init__(self, weights, target, rates, decay, dtype, last, team):
        super().__init__(weights, target, rates, decay, dtype, last)
        self.workspace, self.team = zigzag_workspace(self.layout, team), team
        # Garbage in the buffers must not matter.
        self.workspace.before[:] = np.nan
        self.workspace.costates[:] = np.nan

    def advance(self, start, goal, floor=-1.0):
        self.run(descend_zigzag, self.workspace, self.team, start, goal, floor)


def naive_descent(weights, target, rates, decay, steps):
    weights = [np.asarray(w, dtype=np.float64) for w in weights]
    losses = []
    for step in range(steps + 1):
        G = naive.end_to_end(weights) - target
        losses.append(0.5 * np.sum(G**2))
        if step < steps:
            gradients = naive.backpropagation(weights, G)
            weights = naive_step(weights, rates, decay, gradients)
    return np.array(losses), weights


@pytest.mark.parametrize("decay", [1, 0.75])
@pytest.mark.parametrize("last", [STEPS - 1, STEPS])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_is_gradient_descent(widths, last, decay, dtype, rng):
    weights, target, rates = regression_case(widths, dtype, rng)
    losses, trained = naive_descent(weights, target, rates, decay, last)
    run = Zigzag(weights, target, rates, decay, dtype, last, team=1)
    run.advance(-1, last)
    np.testing.assert_allclose(run.losses, losses, rtol=0, atol=RTOL[dtype] * losses[0])
    for got, expected in zip(run.layers(), trained, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * RTOL[dtype])
    assert run.padding() == pytest.approx(0, abs=1e-9 * run.layout.size)


@pytest.mark.parametrize("widths", [(5, 17, 3), (20, 31, 67, 5, 16), (18, 70, 150, 9)], ids=str)
def test_teams_and_spans_do_not_change_a_bit(widths, dtype, rng):
    weights, target, rates = regression_case(widths, dtype, rng)
    alone = Zigzag(weights, target, rates, 1, dtype, STEPS, team=1)
    alone.advance(-1, STEPS)
    for team in (2, 3):
        run = Zigzag(weights, target, rates, 1, dtype, STEPS, team)
        for start, stop in ((-1, 0), (0, 1), (1, 3), (3, STEPS)):
            run.advance(start, stop)
        np.testing.assert_array_equal(run.losses, alone.losses)
        np.testing.assert_array_equal(run.weights, alone.weights)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_weights_are_current_after_an_early_end(stopped, rng):
    weights, target, rates = regression_case((5, 17, 3), "float64", rng)
    losses, trained = naive_descent(weights, target, rates, 1, stopped)
    run = Zigzag(weights, target, rates, 1, "float64", STEPS, team=1)
    run.advance(-1, STEPS, floor=losses[-1] * (1 + 1e-9))
    assert np.isnan(run.losses[stopped + 1 :]).all()
    for got, expected in zip(run.layers(), trained, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
def test_divergence_stays_visible(rng):
    weights, target, rates = regression_case((5, 17, 3), "float32", rng)
    run = Zigzag(weights, target, rates * np.float32(1e30), 1, "float32", STEPS, team=1)
    run.advance(-1, STEPS)
    known = run.losses[np.isfinite(run.losses)]
    assert 1 <= known.size <= STEPS
