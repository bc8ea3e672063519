"""Many steps in one call against naive steps one by one, for any team."""

import naive
import numpy as np
import pytest
from packed import PackedRegression, naive_step, regression_case

from fastdln.kernels.cpu import regression_loop
from fastdln.kernels.cpu.groups import MomentumStep, Regression
from fastdln.kernels.cpu.layout import STRIDE
from fastdln.kernels.cpu.regression_loop import descend, descend_with_momentum

# Depth 1 and 2, width 1, rectangular hidden layers, padded rows of M (q = 3, 11).
SHAPES = [(1, 1), (7, 4), (1, 1, 1), (5, 17, 3), (20, 31, 67, 5, 16), (12, 7, 40, 11)]
# Some steps of rounding on top of each other, relative to the first loss.
RTOL = {"float32": 1e-5, "float64": 1e-13}
STEPS = 5
CONSTANT = 0.25


class Run(PackedRegression):
    """A packed regression with a scale, a constant, and a velocity for momentum."""

    def __init__(self, widths, dtype, rng, decay=1.0):
        self.start, self.target, self.rates = regression_case(widths, dtype, rng)
        super().__init__(self.start, self.target, self.rates, decay, dtype, STEPS)
        self.scale = rng.uniform(0.5, 1, self.target.shape)
        self.problem = Regression(self.scale, self.target, CONSTANT, self.losses)
        self.velocity = np.zeros_like(self.weights)
        self.decays = rng.uniform(0.1, 0.5, len(self.start)).astype(dtype)

    def descend(self, team, start, goal, floor=-1.0):
        self.run(descend, self.workspace, team, start, goal, floor)

    def use_momentum(self, momentum, nesterov):
        momentum = self.weights.dtype.type(momentum)
        self.step = MomentumStep(self.velocity, self.rates, self.decays, momentum, nesterov)

    def residual(self, weights):
        return naive.end_to_end(weights) * self.scale - self.target

    def gradients(self, weights):
        return naive.backpropagation(weights, self.residual(weights) * self.scale)

    def check(self, step, weights):
        loss = CONSTANT + 0.5 * np.sum(self.residual(weights) ** 2)
        atol = RTOL[self.layout.dtype.name] * self.losses[0]
        assert self.losses[step] == pytest.approx(loss, rel=0, abs=atol)

    def check_layers(self, weights):
        for got, w in zip(self.layers(), weights, strict=True):
            np.testing.assert_allclose(got, w, rtol=0, atol=10 * RTOL[self.layout.dtype.name])
        assert self.padding() == pytest.approx(0, abs=1e-9 * self.layout.size)


@pytest.mark.parametrize("decay", [1, 0.75])
@pytest.mark.parametrize("team", [1, 3])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_is_gradient_descent(widths, team, decay, dtype, rng):
    run = Run(widths, dtype, rng, decay)
    for start, goal in ((-1, 0), (0, 1), (1, STEPS)):
        run.descend(team, start, goal)
    weights = [w.astype(np.float64) for w in run.start]
    for step in range(STEPS + 1):
        run.check(step, weights)
        if step < STEPS:
            weights = naive_step(weights, run.rates, decay, run.gradients(weights))
    run.check_layers(weights)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("team", [1, 2])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_has_momentum(widths, team, nesterov, dtype, rng):
    run, mu = Run(widths, dtype, rng), 0.5
    run.use_momentum(mu, nesterov)
    for start, goal in ((-1, 2), (2, STEPS)):
        run.run(descend_with_momentum, run.workspace, team, start, goal)
    weights, velocity = [w.astype(np.float64) for w in run.start], [0.0] * len(run.start)
    for step in range(STEPS + 1):
        run.check(step, weights)
        if step < STEPS:
            for i, g in enumerate(run.gradients(weights)):
                g = g + run.decays[i] * weights[i]
                velocity[i] = mu * velocity[i] + g
                weights[i] = weights[i] - run.rates[i] * (
                    g + mu * velocity[i] if nesterov else velocity[i]
                )
    run.check_layers(weights)


def test_steps_end_at_the_floor(rng):
    whole, short = (Run((5, 17, 3), "float64", np.random.default_rng(8)) for _ in range(2))
    whole.descend(1, -1, STEPS)
    short.descend(2, -1, STEPS, floor=whole.losses[2])
    np.testing.assert_array_equal(short.losses[:3], whole.losses[:3])
    assert np.isnan(short.losses[3:]).all()


@pytest.mark.parametrize(
    ("loss", "floor", "goes_on"),
    [(2.0, 1.0, True), (1.0, 1.0, False), (np.inf, 1.0, False), (np.nan, -1.0, False)],
)
def test_a_run_continues_above_its_floor(loss, floor, goes_on):
    assert regression_loop.continues(loss, floor) == goes_on


@pytest.mark.parametrize("widths", [(7, 3), (20, 11), (1, 1), (17, 6)], ids=str)
def test_the_residual_fills_a_padded_co_state(widths, dtype, rng):
    run = Run(widths, dtype, rng)
    run.product(0)[:] = run.start[0]  # of one layer, M is the layer
    C = run.workspace.C
    C[:] = np.nan
    loss = regression_loop.residual(run.network, run.problem, C, 2.0)
    residual = run.residual(run.start)
    assert loss == pytest.approx(0.5 * np.sum(residual**2), rel=1e-12)
    stride, q, n = run.layout.layers[0, STRIDE], run.layout.q, widths[0]
    rows = C[: run.layout.q_padded * stride].reshape(-1, stride)
    expected = -2 * residual * run.scale
    np.testing.assert_allclose(rows[:q, :n], expected, rtol=10 * np.finfo(dtype).eps)
    assert not rows[q:].any()
    assert not rows[:, n:].any()
