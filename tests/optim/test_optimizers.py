"""Optimisers: the naive steps, and the constants that follow from an optimiser."""

import naive
import numpy as np
import pytest
from reduction_cases import OPTIMIZERS, STEPS, make_problem, stable

import fastdln
from fastdln.config import TrainConfig
from fastdln.optim.optimizers import LayerRates, Optimizer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_the_naive_one(optimizer, dtype, rtol, rng, device):
    problem = make_problem(7, 3, 9, rng)
    network = fastdln.initialize(7, 3, width=(11, 6, 13), init="gaussian", dtype=dtype)
    rate = stable(problem, 4)
    oracle = naive.Descent(**OPTIMIZERS[optimizer])
    losses, weights = naive.train(network.weights, problem.X, problem.Y, rate, STEPS, oracle)
    common = {"network": network, "steps": STEPS, "learning_rate": rate}
    r = fastdln.train(problem, device=device, **common, **OPTIMIZERS[optimizer])
    np.testing.assert_allclose(r.loss, losses, rtol=rtol)
    for got, expected in zip(r.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=50 * rtol, rtol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_adam_is_the_naive_one(weight_decay, dtype, rng, device):
    problem = make_problem(7, 3, 9, rng)
    network = fastdln.initialize(7, 3, width=(11, 6), init="orthogonal", dtype=dtype)
    losses, weights = naive.train(
        network.weights, problem.X, problem.Y, 0.01, STEPS, naive.Adam(weight_decay)
    )
    r = fastdln.train(
        problem,
        device=device,
        network=network,
        steps=STEPS,
        learning_rate=0.01,
        optimizer="adam",
        weight_decay=weight_decay,
    )
    assert r.method == "dense"
    # Adam divides by the gradient's size: rounding of small gradients is not small in a step.
    rtol = {"float32": 5e-3, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(r.loss, losses, rtol=rtol)
    for got, expected in zip(r.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=rtol, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_complement_factor_is_a_loop_of_steps_without_a_gradient(name):
    oracle, w = naive.Descent(**OPTIMIZERS[name]), 1.0
    optimizer = Optimizer(**OPTIMIZERS[name])
    for step in range(STEPS + 1):
        assert optimizer.complement_factor(0.3, step) == pytest.approx(w, rel=1e-13)
        w = oracle.step(0, w, 0.0, 0.3, step + 1)
    assert (w == 1) == (optimizer.weight_decay == 0)


@pytest.mark.parametrize("name", ["plain", "decay", "Polyak and decay"])
def test_rates_of_normalised_layers_make_the_step_of_the_papers_weights(name, rng):
    optimizer, rate, rows = Optimizer(**OPTIMIZERS[name]), 0.1, np.array([4.0, 9.0])
    rates = LayerRates.of(optimizer, rate, rows)
    np.testing.assert_array_equal(rates.row_scales, [2, 3])
    for i, m in enumerate(rows):
        hat, gradient = rng.standard_normal((2, int(m), 3))
        # The gradient by Ŵ = W/√m is √m times that by W.
        W = naive.Descent(**OPTIMIZERS[name]).step(
            0, np.sqrt(m) * hat, gradient / np.sqrt(m), rate, 1
        )
        step = hat - rates.step_sizes[i] * (gradient + rates.weight_decays[i] * hat)
        np.testing.assert_allclose(step, W / np.sqrt(m), atol=1e-14)
        if optimizer.momentum == 0:
            step = rates.decay_factor * hat - rates.step_sizes[i] * gradient
            np.testing.assert_allclose(step, W / np.sqrt(m), atol=1e-14)


def test_adams_rates_are_those_of_the_papers_weights():
    rates = LayerRates.of(Optimizer("adam", weight_decay=0.2), 0.1, np.array([4.0, 25.0]))
    np.testing.assert_allclose(rates.step_sizes, [0.05, 0.02])
    np.testing.assert_array_equal(rates.weight_decays, [0.2, 0.2])


@pytest.mark.parametrize(
    ("options", "arrays"),
    [({}, 0), ({"weight_decay": 0.1}, 0), ({"momentum": 0.5}, 1), ({"optimizer": "adam"}, 2)],
    ids=str,
)
def test_an_optimiser_is_made_of_the_options_of_a_run(options, arrays):
    optimizer = Optimizer.of(TrainConfig(width=3, depth=2, **options))
    assert optimizer.state_arrays == arrays
    assert optimizer.adam == (not optimizer.equivariant) == (arrays == 2)
    assert optimizer.weight_decay == options.get("weight_decay", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, not 1.0"),
        ({"momentum": -0.1}, "momentum"),
        ({"nesterov": True}, "nesterov=True needs a momentum greater than 0"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"optimizer": "lion"}, "optimizer must be one of 'gd', 'adam', not 'lion'"),
        ({"optimizer": "adam", "momentum": 0.5}, "has its own momentum"),
    ],
    ids=str,
)
def test_bad_options_of_an_optimiser(change, message):
    with pytest.raises(ValueError, match=message):
        fastdln.train(fastdln.paper_regression(), width=8, depth=3, steps=1, **change)
