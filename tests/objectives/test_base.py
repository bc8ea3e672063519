"""All objectives: gradients, reductions, training; and one written by a user."""

import naive
import numpy as np
import pytest

import fastdln

STEPS = 30


def make_objectives(rng):
    X = rng.standard_normal((7, 3)) @ rng.standard_normal((3, 12))
    places = rng.choice(4 * 7, size=9, replace=False)
    places = places[places % 7 != 2]  # column 2 is never observed
    return {
        "regression": fastdln.Regression(X, rng.standard_normal((4, 12))),
        "logistic": fastdln.Logistic(X, rng.integers(0, 4, 12), classes=4),
        "completion": fastdln.MatrixCompletion(
            (4, 7), places // 7, places % 7, rng.standard_normal(places.size)
        ),
        "sensing": fastdln.MatrixSensing(
            rng.standard_normal((5, 4, 3)) @ rng.standard_normal((3, 7)), rng.standard_normal(5)
        ),
    }


NAMES = ["regression", "logistic", "completion", "sensing"]


@pytest.fixture(params=NAMES)
def objective(request, rng):
    return make_objectives(rng)[request.param]


def test_gradient_is_the_finite_difference_of_the_loss(objective, rng):
    M = rng.standard_normal((4, 7))
    G, h = objective.gradient(M), 1e-5
    for index in np.ndindex(M.shape):
        step = np.zeros_like(M)
        step[index] = h
        difference = (objective.loss(M + step) - objective.loss(M - step)) / (2 * h)
        # Third derivatives of order 10 times h², and rounding eps·ℓ/h.
        assert G[index] == pytest.approx(difference, abs=1e-7)


def test_minibatch_gradients_are_unbiased(objective, rng):
    M = rng.standard_normal((4, 7))
    each = [objective.batch_gradient(M, np.array([i])) for i in range(objective.n)]
    np.testing.assert_allclose(np.mean(each, axis=0), objective.gradient(M), atol=1e-12)


def test_smoothness_bounds_the_gradient(objective, rng):
    for _ in range(50):
        A, B = rng.standard_normal((2, 4, 7))
        change = np.linalg.norm(objective.gradient(A) - objective.gradient(B))
        assert change <= objective.smoothness * np.linalg.norm(A - B) * (1 + 1e-12)


@pytest.mark.parametrize("rule", [{}, {"momentum": 0.5, "weight_decay": 0.01}])
@pytest.mark.parametrize("method", ["dense", "reduced"])
def test_every_step_is_the_naive_loop(objective, method, rule, device):
    network = fastdln.initialize(7, 4, width=16, depth=4, seed=1)
    rate = 0.1 * fastdln.theory.learning_rate(objective, 4)
    losses, weights = naive.train_objective(
        network.weights, objective, rate, STEPS, naive.Descent(**rule)
    )
    r = fastdln.train(
        objective,
        width=16,
        depth=4,
        seed=1,
        steps=STEPS,
        learning_rate=rate,
        method=method,
        device=device,
        **rule,
    )
    assert r.method == method
    np.testing.assert_allclose(r.loss, losses, rtol=1e-11)
    for got, expected in zip(r.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11)


def test_the_theorems_step_decreases_every_objective(objective):
    r = fastdln.train(objective, width=64, depth=5, steps=60)
    assert (np.diff(r.loss) < 0).all()


class Huber:
    """A user's own objective, in ten lines."""

    def __init__(self, X, Y):
        self.X, self.Y = X, Y
        self.d_x, self.d_y = X.shape[0], Y.shape[0]

    def loss(self, M):
        r = np.abs(M @ self.X - self.Y)
        return np.sum(np.where(r < 1, r**2 / 2, r - 0.5))

    def gradient(self, M):
        return np.clip(M @ self.X - self.Y, -1, 1) @ self.X.T


@pytest.mark.parametrize("method", ["dense", "reduced"])
def test_a_users_own_objective(method, rng, device):
    problem = Huber(rng.standard_normal((3, 9)), rng.standard_normal((2, 9)))
    network = fastdln.initialize(3, 2, width=12, depth=3)
    losses, _ = naive.train_objective(network.weights, problem, 1e-2, STEPS)
    r = fastdln.train(
        problem, width=12, depth=3, steps=STEPS, learning_rate=1e-2, method=method, device=device
    )
    np.testing.assert_allclose(r.loss, losses, rtol=1e-12)
    with pytest.raises(ValueError, match="a Huber states no smoothness, so learning_rate must be"):
        fastdln.train(problem, width=12, depth=3, steps=1)
    with pytest.raises(TypeError, match="a Huber has no batch_gradient"):
        fastdln.train(problem, width=12, depth=3, steps=1, learning_rate=1e-2, batch_size=2)


def test_a_users_input_basis_reduces_and_is_checked(rng):
    X = rng.standard_normal((9, 2)) @ rng.standard_normal((2, 6))
    problem = Huber(X, rng.standard_normal((2, 6)))
    plain = fastdln.train(problem, width=20, depth=3, steps=9, learning_rate=1e-3)
    problem.input_basis = np.linalg.svd(X)[0][:, :2]
    based = fastdln.train(problem, width=20, depth=3, steps=9, learning_rate=1e-3)
    np.testing.assert_allclose(based.loss, plain.loss, rtol=1e-12)
    problem.input_basis = 2 * problem.input_basis
    with pytest.raises(ValueError, match="input_basis must have orthonormal columns"):
        fastdln.train(problem, width=20, depth=3, steps=9, learning_rate=1e-3)


def test_a_diverging_objective_is_a_result(rng):
    problem = make_objectives(rng)["sensing"]
    r = fastdln.train(problem, width=8, depth=4, steps=500, learning_rate=1e3)
    assert r.status == "diverged"
    assert np.isfinite(r.loss[:-1]).all()
