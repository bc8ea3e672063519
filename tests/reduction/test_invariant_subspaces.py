"""Given networks: what is found, and that training inside it is exact."""

import numpy as np
import pytest
from reduction_cases import OPTIMIZERS, SAME, STEPS, make_problem

import fastdln
from fastdln.objectives.base import span
from fastdln.reduction.invariant_subspaces import Irreducible, invariant_subspaces, rank_tolerance


def given_networks(rng):
    def haar(n):
        return fastdln.haar_orthogonal(n, seed=int(rng.integers(1000)))

    identity = [rng.standard_normal((20, 6)), np.eye(20), np.eye(20), rng.standard_normal((3, 20))]
    orthogonal = [identity[0], haar(20), haar(20), identity[-1]]
    scaled = [identity[0], 1.5 * haar(20), 0.3 * haar(20), identity[-1]]
    block = [np.eye(20, 6), np.zeros((20, 20)), np.eye(20), identity[-1]]
    block[1][:8, :8] = rng.standard_normal((8, 8)) / 3
    unequal = [np.eye(20, 6), 0.8 * haar(30)[:, :20], 1.1 * haar(30), rng.standard_normal((3, 30))]
    return {
        "identity": (identity, [9, 9, 9]),
        "orthogonal": (orthogonal, [9, 9, 9]),
        "scaled orthogonal": (scaled, [9, 9, 9]),
        "block": (block, [8, 11, 11]),
        "unequal widths": (unequal, [9, 12, 12]),
        "zero last layer": ([*identity[:-1], np.zeros((3, 20))], [6, 6, 6]),
    }


@pytest.mark.parametrize("optimizer", ["plain", "Nesterov and decay"])
@pytest.mark.parametrize("name", list(given_networks(np.random.default_rng(0))))
def test_invariant_subspaces_of_given_networks(name, optimizer, rng, device):
    weights, dimensions = given_networks(rng)[name]
    problem = make_problem(6, 3, 9, rng)
    network = fastdln.Network([0.5 * w for w in weights])
    bases = invariant_subspaces(network.weights, problem.reduced.basis, 1e-12, 0.95)
    assert [Q.shape[1] for Q in bases] == dimensions
    arguments = {"network": network, "steps": STEPS, "learning_rate": 1e-3, **OPTIMIZERS[optimizer]}
    dense = fastdln.train(problem, device=device, **arguments, method="dense")
    reduced = fastdln.train(problem, device=device, **arguments)
    assert reduced.method == "reduced"
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11, rtol=0)


def test_a_trained_network_still_reduces():
    problem = fastdln.paper_regression()
    first = fastdln.train(problem, width=50, depth=4, steps=5)
    network = fastdln.Network(list(first.network.weights))
    again = fastdln.train(problem, network=network, steps=5)
    assert again.method == "reduced"
    whole = fastdln.train(problem, width=50, depth=4, steps=10)
    np.testing.assert_allclose(again.loss, whole.loss[5:], rtol=1e-9)


def test_a_float32_network_reduces_at_its_own_tolerance():
    problem = fastdln.paper_regression()
    network = fastdln.initialize(1024, 10, width=60, depth=6, dtype="float32")
    reduced = fastdln.train(problem, network=network, steps=20)
    dense = fastdln.train(problem, network=network, steps=20, method="dense")
    assert reduced.method == "reduced"
    np.testing.assert_allclose(reduced.loss, dense.loss, rtol=2e-4)


@pytest.mark.parametrize("tolerance", [0, 1, -1e-3, float("nan")])
def test_rank_tolerance_out_of_range(tolerance):
    network = fastdln.initialize(1024, 10, width=8, depth=3)
    with pytest.raises(ValueError, match="rank_tolerance"):
        fastdln.train(fastdln.paper_regression(), network=network, rank_tolerance=tolerance)


@pytest.mark.parametrize("name", ["scaled orthogonal", "block", "unequal widths"])
def test_the_subspaces_are_closed_under_every_layer_and_its_transpose(name, rng):
    weights, _ = given_networks(rng)[name]
    basis = span(rng.standard_normal((4, 6)))
    bases = invariant_subspaces(weights, basis, 1e-12, 1.0)

    def inside(Q, vectors):
        np.testing.assert_allclose(Q @ (Q.T @ vectors), vectors, atol=1e-11)

    for Q in bases:
        np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=1e-13)
    inside(bases[0], weights[0] @ basis)
    inside(bases[-1], weights[-1].T)
    for W, lower, upper in zip(weights[1:-1], bases[:-1], bases[1:], strict=True):
        inside(upper, W @ lower)
        inside(lower, W.T @ upper)


def test_subspaces_that_are_too_large_are_given_up(rng):
    weights = [rng.standard_normal(shape) for shape in ((7, 3), (7, 7), (2, 7))]
    basis = span(rng.standard_normal((3, 3)))
    with pytest.raises(Irreducible, match="the second layer alone mixes more than 3 of 7"):
        invariant_subspaces(weights, basis, 1e-12, 0.5)
    eyes = [weights[0], np.eye(7), weights[-1]]
    with pytest.raises(Irreducible, match="at least 10 of 14 hidden dimensions"):
        invariant_subspaces(eyes, basis, 1e-12, 0.5)


def test_the_default_tolerance_is_ten_roundings_of_the_widest_layer():
    eps = np.finfo(np.float32).eps
    assert rank_tolerance(None, np.dtype("float32"), (4, 25)) == pytest.approx(50 * eps)
    assert rank_tolerance(0.1, np.dtype("float32"), (4, 25)) == 0.1
