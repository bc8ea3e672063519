"""Batched gradient descent against NumPy, SIMD lane by lane."""

import naive
import numpy as np
import pytest

from fastdln.kernels.cpu import batched
from fastdln.kernels.cpu.layout import make_layout
from fastdln.kernels.cpu.tiles import lanes


def problem(S, T, constants, losses, floors):
    """One problem for every lane: S and T of shape (q, d, lanes)."""
    return batched.BatchedRegression(S.reshape(-1), T.reshape(-1), constants, losses, floors)


def test_steps_are_those_of_naive_descent(dtype, rtol, rng):
    """Every lane at its own data, step sizes and weight decay; one lane idle, at zero weights."""
    widths, steps = (3, 6, 4, 2), 5
    layout = make_layout(widths, dtype)
    chain, step = batched.new_batched_chain(layout), batched.new_batched_step(layout)
    n = chain.lanes
    weights = [rng.standard_normal((a, b, n)) / 2 for b, a in zip(widths, widths[1:], strict=False)]
    for i, w in enumerate(weights):
        w[:, :, 0] = 0
        chain.layer(i)[:] = w
    S, T = rng.random((2, 3, n)) + 0.5, rng.standard_normal((2, 3, n))
    step_sizes, decay, constants = 0.05 * rng.random((3, n)), 1 - 0.1 * rng.random(n), rng.random(n)
    for lane in range(1, n):
        step.set_lane(lane, step_sizes[:, lane], decay[lane])
    losses, floors = np.empty((steps + 1, n)), np.full(n, -np.inf)
    regression = problem(S, T, constants, losses, floors)
    assert batched.descend_batch(chain, step, regression) == steps
    for lane in range(n):
        layers = [w[:, :, lane] for w in weights]
        for t in range(steps + 1):
            residual = naive.end_to_end(layers) * S[:, :, lane] - T[:, :, lane]
            expected = constants[lane] + 0.5 * np.sum(residual**2)
            assert losses[t, lane] == pytest.approx(expected, rel=rtol)
            if t < steps and lane:
                slopes = naive.backpropagation(layers, residual * S[:, :, lane])
                layers = [
                    decay[lane] * w - eta * g
                    for w, g, eta in zip(layers, slopes, step_sizes[:, lane], strict=True)
                ]
        for i, w in enumerate(layers):
            np.testing.assert_allclose(chain.layer(i)[:, :, lane], w, rtol=0, atol=10 * rtol)


def test_a_step_from_a_given_gradient(dtype, rtol, rng):
    widths = (3, 5, 2)
    layout = make_layout(widths, dtype)
    chain, step = batched.new_batched_chain(layout), batched.new_batched_step(layout)
    for i in range(2):
        chain.layer(i)[:] = rng.standard_normal(chain.layer(i).shape)
    layers = [chain.layer(i)[:, :, 1].astype(np.float64) for i in range(2)]
    step.set_lane(1, np.array([0.1, 0.1]), 1.0)
    batched.advance_batch(chain, step, False)
    np.testing.assert_allclose(chain.end_to_end()[:, :, 1], layers[1] @ layers[0], rtol=20 * rtol)
    G = rng.standard_normal((2, 3))
    chain.gradient()[:] = 0
    chain.gradient()[:, :, 1] = -0.1 * G
    batched.advance_batch(chain, step, True)
    slopes = naive.backpropagation(layers, G)
    for i, (w, g) in enumerate(zip(layers, slopes, strict=True)):
        np.testing.assert_allclose(chain.layer(i)[:, :, 1], w - 0.1 * g, rtol=0, atol=10 * rtol)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
@pytest.mark.parametrize("floor", [np.inf, 0.0])
def test_steps_end_as_soon_as_one_network_has_ended(floor, dtype):
    """At a loss at most its floor; a loss that is not finite ends them in any case."""
    layout = make_layout((2, 2), dtype)
    chain, step = batched.new_batched_chain(layout), batched.new_batched_step(layout)
    n = chain.lanes
    chain.layer(0)[:] = 1 if floor else np.inf
    losses, floors = np.empty((9, n)), np.full(n, -np.inf)
    floors[n - 1] = floor
    regression = problem(np.ones((2, 2, n)), np.zeros((2, 2, n)), np.zeros(n), losses, floors)
    assert batched.descend_batch(chain, step, regression) == 0


def test_wide_layers_are_refused():
    too_wide = 2 * lanes("float64") + 1
    with pytest.raises(ValueError, match=f"width {too_wide} are too wide"):
        batched.new_batched_chain(make_layout((3, too_wide, 2), "float64"))
