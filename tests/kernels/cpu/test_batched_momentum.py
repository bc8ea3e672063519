"""Batched momentum against a naive trainer, SIMD lane by lane."""

import naive
import numpy as np
import pytest

from fastdln.kernels.cpu import batched, batched_momentum
from fastdln.kernels.cpu.layout import make_layout


def test_steps_are_those_of_naive_momentum(dtype, rtol, rng):
    """Every lane at its own constants, Polyak's and Nesterov's in turn; lane 0 idle."""
    widths, steps = (3, 6, 4, 2), 5
    layout = make_layout(widths, dtype)
    chain = batched.new_batched_chain(layout)
    step = batched_momentum.new_batched_momentum(layout, chain)
    n = chain.lanes
    weights = [rng.standard_normal((a, b, n)) / 2 for b, a in zip(widths, widths[1:], strict=False)]
    for i, w in enumerate(weights):
        w[:, :, 0] = 0
        chain.layer(i)[:] = w
    S, T = rng.random((2, 3, n)) + 0.5, rng.standard_normal((2, 3, n))
    rates, decays, momentum = 0.05 * rng.random((3, n)), rng.random((3, n)), rng.random(n)
    for lane in range(1, n):
        step.set_lane(lane, rates[:, lane], decays[:, lane], momentum[lane], lane % 2 == 1)
    losses, floors = np.empty((steps + 1, n)), np.full(n, -np.inf)
    regression = batched.BatchedRegression(
        S.reshape(-1), T.reshape(-1), np.zeros(n), losses, floors
    )
    assert batched_momentum.descend_batch_with_momentum(chain, step, regression) == steps
    for lane in range(1, n):
        layers, mu = [w[:, :, lane] for w in weights], momentum[lane]
        velocity = [np.zeros_like(w) for w in layers]
        for t in range(steps + 1):
            residual = naive.end_to_end(layers) * S[:, :, lane] - T[:, :, lane]
            assert losses[t, lane] == pytest.approx(0.5 * np.sum(residual**2), rel=10 * rtol)
            if t == steps:
                break
            slopes = naive.backpropagation(layers, residual * S[:, :, lane])
            for i, g in enumerate(slopes):
                g = g + decays[i, lane] * layers[i]
                velocity[i] = mu * velocity[i] + g
                move = g + mu * velocity[i] if lane % 2 == 1 else velocity[i]
                layers[i] = layers[i] - rates[i, lane] * move
        for i, w in enumerate(layers):
            np.testing.assert_allclose(chain.layer(i)[:, :, lane], w, rtol=0, atol=20 * rtol)
    assert not chain.weights.reshape(-1, n)[:, 0].any()
    step.clear_lane(1)
    assert not step.velocity.reshape(-1, n)[:, 1].any()
    assert step.moves[:, 1].tolist() == [0, 0, 0]


def test_a_step_from_a_given_gradient(dtype, rng):
    """With no velocity yet, momentum's first step is gradient descent's."""
    layout = make_layout((3, 2), dtype)
    chain = batched.new_batched_chain(layout)
    step = batched_momentum.new_batched_momentum(layout, chain)
    step.set_lane(0, np.array([0.5]), np.zeros(1), 0.9, False)
    chain.gradient()[:, :, 0] = 2
    batched_momentum.advance_batch_with_momentum(chain, step, True)
    assert (chain.layer(0)[:, :, 0] == -1).all()
    np.testing.assert_array_equal(chain.end_to_end(), chain.layer(0))
