"""Losses of this package are evaluated on the GPU, to the results of the host."""

import gpu_cases as cases
import numpy as np
import pytest
from cuda_cases import ShimLauncher

import fastdln
from fastdln.backends.gpu.objectives import objective_on_gpu
from fastdln.backends.gpu.trainer import GpuTrainer
from fastdln.objectives.base import RestrictedObjective, reduced_objective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.minibatches import Minibatches
from fastdln.optim.optimizers import Optimizer

OBJECTIVES = {
    "logistic": lambda rng: fastdln.Logistic(rng.standard_normal((6, 20)), rng.integers(0, 3, 20)),
    "completion": lambda rng: fastdln.MatrixCompletion(
        (3, 6), [0, 1, 2, 2], [0, 3, 5, 1], rng.standard_normal(4)
    ),
    "sensing": lambda rng: fastdln.MatrixSensing(
        rng.standard_normal((12, 3, 6)), rng.standard_normal(12)
    ),
    "regression": lambda rng: fastdln.Regression(
        rng.standard_normal((6, 9)), rng.standard_normal((3, 9))
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_those_of_the_host(name, rng):
    problem = OBJECTIVES[name](rng)
    host, samples = reduced_objective(problem), np.array([1, 3, 0])
    ours = objective_on_gpu(np, host)
    M = rng.standard_normal((problem.d_y, host.rank))
    for got, expected in zip(ours.evaluate(M), host.evaluate(M), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        ours.batch_gradient(M, samples), host.batch_gradient(M, samples), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("minibatches", [False, True], ids=["", "minibatches"])
@pytest.mark.parametrize("kernel", ["zigzag", "two-pass", "adam"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_host_is_not_asked(name, kernel, minibatches, rng, monkeypatch):
    problem = OBJECTIVES[name](rng)
    objective, adam = reduced_objective(problem), kernel == "adam"
    work = cases.workload(
        (objective.rank, 7, 7, 3),
        objective,
        rng,
        9,
        rate=1e-2 * fastdln.theory.learning_rate(problem, 3),
        kernel="two-pass" if adam else kernel,
        optimizer=Optimizer("adam") if adam else Optimizer(),
        schedule=Minibatches(problem.n, 3, 5) if minibatches else None,
    )
    losses, layers = cases.expected(work)

    def asked(self, M):
        raise AssertionError("the host was asked")

    monkeypatch.setattr(RestrictedObjective, "evaluate", asked)
    monkeypatch.setattr(ReducedRegression, "evaluate", asked)
    with GpuTrainer(work, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
        trained = trainer.trained_layers()
    np.testing.assert_allclose(trainer.losses, losses, rtol=1e-9)
    for i, w in enumerate(layers):
        np.testing.assert_allclose(trained(i), w, atol=1e-9)


def test_a_class_derived_from_one_of_ours_may_be_another_loss(rng):
    class Doubled(fastdln.Logistic):
        def loss(self, M):
            return 2 * super().loss(M)

    given = Doubled(rng.standard_normal((6, 20)), rng.integers(0, 3, 20))
    assert objective_on_gpu(np, reduced_objective(given)) is None
