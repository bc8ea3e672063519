"""The theorems' quantities against their definitions, by plain linear algebra."""

import numpy as np
import pytest

from fastdln import theory
from fastdln.objectives.regression import Regression


def problem(rank=4, d_x=7, d_y=3, n=6, noise=0.0):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((d_x, rank)) @ rng.standard_normal((rank, n))
    return Regression(
        X, rng.standard_normal((d_y, d_x)) @ X + noise * rng.standard_normal((d_y, n))
    )


def eigenvalues(p, rank=4):
    return np.sort(np.linalg.eigvalsh(p.X.T @ p.X))[::-1][:rank]


def test_learning_rate_is_the_largest_of_theorem_4_1():
    p = problem()
    expected = p.d_y / (2 * 50 * np.linalg.norm(p.X, 2) ** 2)
    assert theory.learning_rate(p, 50) == pytest.approx(expected, rel=1e-12)


def test_condition_number_and_stable_rank_of_rank_deficient_data():
    p = problem()
    values = eigenvalues(p)
    assert theory.condition_number(p) == pytest.approx(values[0] / values[-1], rel=1e-9)
    assert theory.stable_rank(p) == pytest.approx(np.sum(p.X**2) / values[0], rel=1e-9)


def test_optimal_loss_is_that_of_least_squares():
    p = problem(noise=0.5)
    best = p.Y @ np.linalg.pinv(p.X, rcond=1e-10)
    assert theory.optimal_loss(p) == pytest.approx(p.loss(best), rel=1e-9)
    assert theory.optimal_loss(problem()) == pytest.approx(0, abs=1e-20)


def test_loss_bound_is_the_envelope_of_theorem_4_1():
    p = problem()
    eta = 0.3 * theory.learning_rate(p, 5)
    rate = 1 - 0.5 * eta * 5 * eigenvalues(p)[-1] / p.d_y
    np.testing.assert_allclose(theory.loss_bound(p, 5, eta, 40), rate ** np.arange(41), rtol=1e-9)


def test_loss_bound_of_an_initial_loss_tends_to_the_optimal_loss():
    p = problem(noise=0.5)
    bound = theory.loss_bound(p, 5, steps=10**6, initial_loss=100.0)
    assert bound[0] == 100
    assert bound[-1] == pytest.approx(theory.optimal_loss(p), rel=1e-9)


def test_contraction_at_the_largest_step_does_not_depend_on_depth():
    p = problem()
    expected = 1 - 1 / (4 * theory.condition_number(p))
    for depth in (1, 700):
        assert theory.contraction(p, depth) == pytest.approx(expected, rel=1e-12)


def test_required_width_is_at_least_d_x_and_falls_with_the_failure_probability():
    p = problem()
    assert theory.required_width(p, constant=1e-9) == p.d_x
    assert theory.required_width(p, 0.1) < theory.required_width(p, 0.001)
    W = p.Y @ np.linalg.pinv(p.X, rcond=1e-10)
    values = eigenvalues(p)
    inner = p.d_y * (1 + np.linalg.norm(W, 2) ** 2) + np.log(4 / 0.01)
    expected = np.sum(p.X**2) / values[0] * (values[0] / values[-1]) ** 2 * inner
    assert theory.required_width(p, 0.01) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: theory.learning_rate(p, 0), "depth must be at least 1"),
        (lambda p: theory.loss_bound(p, 5, -1.0, 10), "learning_rate must be"),
        (lambda p: theory.loss_bound(p, 5, float("nan"), 10), "learning_rate must be"),
        (lambda p: theory.loss_bound(p, 5, 1e9, 10), "must be at most .* for Theorem 4.1"),
        (lambda p: theory.loss_bound(p, 5, None, -1), "steps must be at least 0"),
        (lambda p: theory.loss_bound(p, 5, initial_loss=0.0), "at least the optimal loss"),
        (lambda p: theory.required_width(p, 1.0), "between 0 and 1"),
        (lambda p: theory.required_width(p, 0.1, 0.0), "constant must be"),
    ],
)
def test_arguments_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(problem(noise=0.5))
