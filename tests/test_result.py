"""The result of a run: losses relative to the first one."""

import numpy as np

import fastdln


def test_losses_are_relative_to_the_first(rng):
    problem = fastdln.Regression(rng.standard_normal((4, 6)), rng.standard_normal((2, 6)))
    r = fastdln.train(problem, width=5, depth=3, steps=7)
    np.testing.assert_array_equal(r.relative_loss, r.loss / r.loss[0])
    assert f"relative loss {r.relative_loss[-1]:.3g}" in repr(r)


def test_a_loss_that_starts_at_zero_has_converged(rng):
    problem = fastdln.Regression(rng.standard_normal((4, 6)), np.zeros((2, 6)))
    r = fastdln.train(problem, width=5, depth=3, steps=7, init="zero_asymmetric")
    assert (r.status, r.steps_taken) == ("converged", 0)
    np.testing.assert_array_equal(r.relative_loss, [0.0])
