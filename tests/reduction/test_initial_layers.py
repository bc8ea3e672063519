"""Reduced runs start so that one trajectory results, whichever width it is computed at."""

import naive
import numpy as np
import pytest
from reduction_cases import OPTIMIZERS, SAME, STEPS, make_problem, stable

import fastdln
from fastdln.initializers.layers import Draw, draw_layers
from fastdln.objectives.base import span
from fastdln.reduction import initial_layers
from fastdln.reduction.invariant_subspaces import invariant_subspaces
from fastdln.reduction.plan import plan

# d_x, d_y, n, width: wide; narrower than d + d_y, than d_x, than d_y; width 1.
SIZES = {
    "wide": (12, 3, 5, 31),
    "width < d + d_y": (6, 4, 9, 8),
    "width < d_x": (30, 2, 5, 17),
    "width < d_y": (4, 9, 12, 6),
    "width 1": (3, 2, 4, 1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric"])
@pytest.mark.parametrize("size", SIZES)
def test_reduced_and_dense_are_one_trajectory(size, init, optimizer, rng, device):
    *shape, width = SIZES[size]
    problem = make_problem(*shape, rng)
    arguments = {"width": width, "depth": 5, "init": init, "seed": 7, "steps": STEPS}
    arguments |= {"learning_rate": stable(problem, 5), **OPTIMIZERS[optimizer]}
    dense = fastdln.train(problem, device=device, **arguments, method="dense")
    reduced = fastdln.train(problem, device=device, **arguments, method="reduced")
    assert (dense.method, reduced.method) == ("dense", "reduced")
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11, rtol=0)


def test_balanced_networks_reduce_for_any_widths(rng):
    problem = make_problem(7, 3, 9, rng)
    arguments = {"width": (12, 5, 9), "init": "balanced", "steps": STEPS, "seed": 3}
    arguments |= {"learning_rate": stable(problem, 4), "weight_decay": 0.01}
    dense = fastdln.train(problem, **arguments, method="dense")
    reduced = fastdln.train(problem, **arguments, method="reduced")
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric", "balanced"])
def test_reduced_layers_have_the_end_to_end_matrix_of_the_full_ones(init, rng):
    problem = make_problem(9, 3, 4, rng)
    chosen = plan(problem, width=20, depth=4, init=init, method="reduced")
    draw = Draw(chosen.full_widths, init, 5, chosen.dtype, 1.25)
    basis = problem.reduced.basis
    layers = [np.asarray(w) for w in initial_layers.drawn(draw, chosen, basis).layers]
    assert (layers[0].shape[1], *(len(w) for w in layers)) == chosen.widths
    expected = naive.end_to_end(list(draw_layers(draw))) @ basis
    np.testing.assert_allclose(naive.end_to_end(layers), expected, atol=1e-12)


def test_a_dense_start_projects_the_first_layer_only(rng):
    weights = [rng.standard_normal(shape) for shape in ((5, 8), (4, 5), (2, 4))]
    basis = span(rng.standard_normal((3, 8)))
    start = initial_layers.dense(iter(weights), basis)
    layers = list(start.layers)
    np.testing.assert_allclose(layers[0], weights[0] @ basis, atol=1e-14)
    for got, expected in zip(layers[1:], weights[1:], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_given_network_is_projected_on_both_sides(rng):
    network = fastdln.initialize(6, 2, width=15, depth=3, seed=4)
    basis = span(rng.standard_normal((3, 6)))
    bases = invariant_subspaces(network.weights, basis, 1e-12, 0.95)
    start = initial_layers.in_subspaces(network, bases, basis)
    first, second, last = start.layers
    W, Q = network.weights, bases
    np.testing.assert_allclose(first, Q[0].T @ W[0] @ basis, atol=1e-14)
    np.testing.assert_allclose(second, Q[1].T @ W[1] @ Q[0], atol=1e-14)
    np.testing.assert_allclose(last, W[2] @ Q[1], atol=1e-14)
    for i, layer in enumerate((first, second, last)):
        np.testing.assert_array_equal(start.origins(i).projected, layer)
