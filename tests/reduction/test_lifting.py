"""Full-width weights are formed from the trained ones, layer by layer."""

import numpy as np
import pytest

import fastdln
from fastdln.initializers.layers import Draw, draw_layers
from fastdln.objectives.base import span
from fastdln.reduction import initial_layers
from fastdln.reduction.lifting import Lift, LiftedWeights, Origin, layer_shapes
from fastdln.reduction.plan import plan


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1]])
def test_layers_are_lifted_in_any_order(order):
    problem = fastdln.paper_regression()
    arguments = {"width": 40, "depth": 5, "steps": 5}
    dense = fastdln.train(problem, **arguments, method="dense").network
    lifted = fastdln.train(problem, **arguments).network
    for i in order:
        np.testing.assert_allclose(lifted.weights[i], dense.weights[i], atol=1e-12)
    np.testing.assert_allclose(lifted.weights[-1], dense.weights[4], atol=1e-12)
    assert [w.shape for w in lifted.weights[1:3]] == [(40, 40), (40, 40)]
    with pytest.raises(IndexError, match="layer 5 of a network of depth 5"):
        lifted.weights[5]


def test_lifted_weights_are_a_sequence_formed_at_every_access():
    asked = []

    def form(i):
        asked.append(i)
        return np.full((2, 2), float(i))

    weights = LiftedWeights(((2, 2),) * 3, np.dtype("float64"), form)
    assert asked == []
    assert (len(weights), weights[-1][0, 0]) == (3, 2)
    assert [w[0, 0] for w in weights[::-1]] == [2, 1, 0]
    assert [w[0, 0] for w in weights] == [0, 1, 2]
    assert asked == [2, 2, 1, 0, 0, 1, 2]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of a network of depth 3"):
            weights[index]


def test_shapes_are_those_of_the_layers_between_boundaries():
    assert layer_shapes((5, 4, 4, 2)) == ((4, 5), (4, 4), (2, 4))


@pytest.mark.parametrize("sides", ["both", "upper", "lower"])
def test_a_lift_is_its_formula(sides, rng):
    """``c W(0) + Q [V(t) − c V(0)] Pᵀ``, where the whole space is an identity."""
    full, c = rng.standard_normal((6, 5)), 0.75
    Q = np.eye(6) if sides == "lower" else span(rng.standard_normal((2, 6)))
    P = np.eye(5) if sides == "upper" else span(rng.standard_normal((3, 5)))
    origin = Origin(
        full,
        Q.T @ full @ P,
        None if sides == "lower" else Q,
        None if sides == "upper" else P,
    )
    trained = rng.standard_normal(origin.projected.shape)
    lift = Lift(lambda i: origin, lambda i: trained, lambda: c)
    expected = c * full + Q @ (trained - c * Q.T @ full @ P) @ P.T
    np.testing.assert_allclose(lift(0), expected, atol=1e-14)
    assert not lift(0).flags.writeable
    assert trained.flags.writeable


def test_a_layer_without_an_origin_is_a_view_of_the_trained_one(rng):
    trained = rng.standard_normal((3, 2))
    lifted = Lift(lambda i: None, lambda i: trained, lambda: 1.0)(0)
    assert np.shares_memory(lifted, trained)
    assert not lifted.flags.writeable


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 2, 0]])
@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric", "balanced"])
def test_origins_are_the_drawn_layers_and_their_projections(init, order):
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=40, depth=4, init=init)
    draw = Draw(chosen.full_widths, init, 3, chosen.dtype, 0.5)
    start = initial_layers.drawn(draw, chosen, problem.reduced.basis)
    layers, full = list(start.layers), list(draw_layers(draw))
    for i in order:
        origin = start.origins(i)
        np.testing.assert_allclose(origin.full, full[i], atol=1e-13)
        np.testing.assert_allclose(origin.projected, layers[i], atol=1e-13)
        upper = np.eye(len(full[i])) if origin.upper is None else origin.upper
        np.testing.assert_allclose(upper.T @ full[i] @ origin.lower, layers[i], atol=1e-12)
