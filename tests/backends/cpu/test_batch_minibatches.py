"""Losses and minibatch gradients of stacked networks are those of each network, bit for bit."""

import numpy as np
import pytest

from fastdln.backends.cpu import batch_minibatches
from fastdln.backends.cpu.batch_minibatches import MinibatchGradients, Sampled
from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.kernels.cpu.batched import new_batched_chain
from fastdln.objectives.regression import reduce_regression
from fastdln.optim.minibatches import Minibatches


@pytest.mark.parametrize("widths", [(16, 9, 10), (3, 9, 5), (4, 1)], ids=str)
def test_every_network_on_its_own_objective_and_samples(widths, dtype, rng, monkeypatch):
    monkeypatch.setattr(batch_minibatches, "STEPS", 3)
    d, q, mirrored = widths[0], widths[-1], widths[0] < widths[-1]
    objectives = [
        reduce_regression(rng.standard_normal((d, n)), rng.standard_normal((q, n)))
        for n in (d + 3, d + 3, d + 8)
    ]
    chain = new_batched_chain(chain_layout(widths, np.dtype(dtype)))
    sampled = {
        lane: Sampled(
            objectives[lane % 3], Minibatches(objectives[lane % 3].samples[0].shape[1], 2, 5)
        )
        for lane in range(1, min(chain.lanes, 7))
    }
    gradients = MinibatchGradients(chain, mirrored)
    gradients.set_lanes(sampled)
    steps = rng.integers(0, 50, chain.lanes)
    for number in range(5):
        chain.end_to_end()[:] = rng.standard_normal(chain.end_to_end().shape)
        losses = np.full(chain.lanes, -3.0)
        gradients.put_losses(losses)
        gradients.put_gradients(steps + number, np.full(chain.lanes, -0.1))
        assert losses[0] == -3
        for lane, (objective, schedule) in sampled.items():
            M = chain.end_to_end()[:, :, lane].astype(np.float64)
            M = M.T if mirrored else M
            assert losses[lane] == objective.evaluate(M)[0]
            G = -0.1 * objective.batch_gradient(M, schedule(int(steps[lane]) + number))
            found = chain.gradient()[:, :, lane]
            np.testing.assert_array_equal(found.T if mirrored else found, G.astype(dtype))


def test_an_overflowed_network_has_no_loss(rng):
    objective = reduce_regression(rng.standard_normal((4, 9)), rng.standard_normal((3, 9)))
    chain = new_batched_chain(chain_layout((4, 3), np.dtype("float64")))
    gradients = MinibatchGradients(chain, False)
    gradients.set_lanes({lane: Sampled(objective, Minibatches(9, 2, 5)) for lane in range(2)})
    chain.end_to_end()[0, 0, 1] = np.inf
    losses = np.zeros(chain.lanes)
    gradients.put_losses(losses)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
