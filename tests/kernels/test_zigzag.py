"""The zigzag step against naive training in float64, and against itself on other teams."""

import naive
import numpy as np
import pytest
from packed import Packed, on_team, random_layers

from fastdln.kernels.cpu import zigzag

# Depth 1 and 2, width 1, q of 1, 2, 5, 10, 17, d below, at and above a multiple of four, widths
# around a vector, a block of rows and of terms, rectangular hidden layers.
SHAPES = [
    (1, 1), (7, 4), (1, 1, 1), (5, 17, 3), (16, 33, 10), (9, 13, 1), (20, 31, 67, 5, 16),
    (17, 65, 64, 2), (17, 12, 17), (40, 129, 10), (5, 7, 7, 7, 7, 5), (18, 70, 150, 9),
]  # fmt: skip
# Some steps of rounding on top of each other, relative to the first loss.
RTOL = {"float32": 1e-5, "float64": 1e-13}
STEPS = 5


class Sweeper(Packed):
    """A packed network with the zigzag step's buffers and a squared loss ``½‖M − T‖²``."""

    def __init__(self, weights, target, rates, decay, dtype, last, team):
        super().__init__(weights, dtype)
        self.buffers = zigzag.zigzag_buffers(self.layout, team)
        # Garbage in the buffers must not matter.
        self.buffers.before[:] = np.nan
        self.buffers.costates[:] = np.nan
        self.target, self.rates, self.last, self.team = target, rates, last, team
        self.decay = self.layout.dtype.type(decay)
        self.losses = np.full(last + 1, np.nan)

    def advance(self, start, stop, floor=-1.0):
        on_team(
            self.team, zigzag.descend_zigzag, self.weights, self.layout.layers, self.products,
            self.C, self.D, *self.buffers, self.rates, self.decay, np.ones_like(self.target),
            self.target, 0.0, self.losses, start, stop, self.last, floor, *self.geometry(),
        )  # fmt: skip


def naive_descent(weights, target, rates, decay, steps):
    weights = [np.asarray(w, dtype=np.float64) for w in weights]
    losses = []
    for step in range(steps + 1):
        G = naive.end_to_end(weights) - target
        losses.append(0.5 * np.sum(G**2))
        if step < steps:
            gradients = naive.backpropagation(weights, G)
            weights = [decay * w - r * g for w, r, g in zip(weights, rates, gradients, strict=True)]
    return np.array(losses), weights


def case(widths, dtype, rng):
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    target = rng.standard_normal((widths[-1], widths[0]))
    rates = (rng.uniform(0.5, 1, len(weights)) * 2e-2 / len(weights)).astype(dtype)
    return weights, target, rates


@pytest.mark.parametrize("decay", [1, 0.75])
@pytest.mark.parametrize("last", [STEPS - 1, STEPS])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_is_gradient_descent(widths, last, decay, dtype, rng):
    weights, target, rates = case(widths, dtype, rng)
    losses, trained = naive_descent(weights, target, rates, decay, last)
    sweeper = Sweeper(weights, target, rates, decay, dtype, last, team=1)
    sweeper.advance(-1, last)
    np.testing.assert_allclose(sweeper.losses, losses, rtol=0, atol=RTOL[dtype] * losses[0])
    for got, expected in zip(sweeper.layers(), trained, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * RTOL[dtype])
    assert sweeper.padding() == pytest.approx(0, abs=1e-9 * sweeper.layout.size)


@pytest.mark.parametrize("widths", [(5, 17, 3), (20, 31, 67, 5, 16), (18, 70, 150, 9)], ids=str)
def test_teams_and_pieces_do_not_change_a_bit(widths, dtype, rng):
    weights, target, rates = case(widths, dtype, rng)
    alone = Sweeper(weights, target, rates, 1, dtype, STEPS, team=1)
    alone.advance(-1, STEPS)
    for team in (2, 3):
        sweeper = Sweeper(weights, target, rates, 1, dtype, STEPS, team)
        for start, stop in ((-1, 0), (0, 1), (1, 3), (3, STEPS)):
            sweeper.advance(start, stop)
        np.testing.assert_array_equal(sweeper.losses, alone.losses)
        np.testing.assert_array_equal(sweeper.weights, alone.weights)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_weights_are_current_after_an_early_end(stopped, rng):
    weights, target, rates = case((5, 17, 3), "float64", rng)
    losses, trained = naive_descent(weights, target, rates, 1, stopped)
    sweeper = Sweeper(weights, target, rates, 1, "float64", STEPS, team=1)
    sweeper.advance(-1, STEPS, floor=losses[-1] * (1 + 1e-9))
    assert np.isnan(sweeper.losses[stopped + 1 :]).all()
    for got, expected in zip(sweeper.layers(), trained, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
def test_divergence_stays_visible(rng):
    weights, target, rates = case((5, 17, 3), "float32", rng)
    sweeper = Sweeper(weights, target, rates * np.float32(1e30), 1, "float32", STEPS, team=1)
    sweeper.advance(-1, STEPS)
    known = sweeper.losses[np.isfinite(sweeper.losses)]
    assert 1 <= known.size <= STEPS
