"""Origins: layers at full width and their projections, and products by the initial layers."""

import numpy as np
import pytest

import fastdln
from fastdln.initializers.layers import Draw, draw_layers
from fastdln.objectives.base import span
from fastdln.reduction import initial_layers
from fastdln.reduction.invariant_subspaces import invariant_subspaces
from fastdln.reduction.origins import DenseOrigins, NoOrigins
from fastdln.reduction.plan import plan

INITS = ["orthogonal", "identity", "zero_asymmetric", "balanced"]


def started(kind, width=40, depth=4):
    """Return the full layers of a reduced start, its layers to train and its origins."""
    problem = fastdln.paper_regression()
    basis = problem.reduced.basis
    if kind == "given":
        network = fastdln.initialize(1024, 10, width=width, depth=depth, seed=2)
        bases = invariant_subspaces(network.weights, basis, 1e-12, 0.95)
        start = initial_layers.in_subspaces(network, bases, basis)
        return network.weights, list(start.layers), start.origins
    chosen = plan(problem, width=width, depth=depth, init=kind)
    draw = Draw(chosen.full_widths, kind, 3, chosen.dtype, 0.5)
    start = initial_layers.drawn(draw, chosen, basis)
    return list(draw_layers(draw)), list(start.layers), start.origins


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 2, 0]])
@pytest.mark.parametrize("kind", [*INITS, "given"])
def test_origins_are_the_initial_layers_and_their_projections(kind, order):
    full, layers, origins = started(kind)
    for i in order:
        origin = origins(i)
        np.testing.assert_allclose(origin.full, full[i], atol=1e-13)
        np.testing.assert_allclose(origin.projected, layers[i], atol=1e-13)
        np.testing.assert_array_equal(origins.projected(i), origin.projected)
        upper = np.eye(len(full[i])) if origin.upper is None else origin.upper
        np.testing.assert_allclose(upper.T @ full[i] @ origin.lower, layers[i], atol=1e-12)


@pytest.mark.parametrize("kind", [*INITS, "given"])
def test_products_by_the_initial_layers(kind, rng):
    full, _, origins = started(kind)
    np.testing.assert_allclose(origins.first_rows(), origins.basis(1).T @ full[0], atol=1e-12)
    np.testing.assert_allclose(origins.first_times(None), full[0], atol=1e-13)
    X, Y = rng.standard_normal((1024, 3)), full[0] @ rng.standard_normal((1024, 2))
    np.testing.assert_allclose(origins.first_times(X), full[0] @ X, atol=1e-12)
    np.testing.assert_array_equal(origins.hidden_times(Y, 0), Y)
    np.testing.assert_allclose(origins.hidden_times(Y, 2), full[2] @ full[1] @ Y, atol=1e-12)


@pytest.mark.parametrize("kind", [*INITS, "given"])
def test_subspaces_are_invariant(kind):
    full, layers, origins = started(kind)
    Q = [origins.inputs, *(origins.basis(i) for i in (1, 2, 3)), np.eye(10)]
    for i, (W, V) in enumerate(zip(full, layers, strict=True)):
        np.testing.assert_allclose(W @ Q[i], Q[i + 1] @ V, atol=1e-12)
        if i > 0:
            np.testing.assert_allclose(Q[i + 1].T @ W, V @ Q[i].T, atol=1e-12)


def test_dense_origins_are_of_the_first_layer_only(rng):
    first, basis = rng.standard_normal((5, 8)), span(rng.standard_normal((3, 8)))
    origins = DenseOrigins(first, first @ basis, basis)
    assert origins(0).full is first
    assert origins(0).upper is None
    assert origins(1) is origins(2) is None
    assert origins.reader() is origins


def test_no_origins():
    assert NoOrigins()(0) is None
