"""Full-width weights are formed from the trained ones, layer by layer."""

import numpy as np
import pytest

import fastdln
from fastdln.objectives.base import span
from fastdln.reduction.lifting import Lift, LiftedWeights, layer_shapes
from fastdln.reduction.origins import NoOrigins, Origin, Origins


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
    assert [w[0, 0] for w in reversed(weights)] == [2, 1, 0]
    assert asked == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of a network of depth 3"):
            weights[index]


def test_a_pass_has_a_reader_of_its_own():
    readers = []

    def reader():
        readers.append([])
        return lambda i: readers[-1].append(i) or np.full((2, 2), float(i))

    def form(i):
        raise AssertionError("a pass asks its reader")

    weights = LiftedWeights(((2, 2),) * 3, np.dtype("float64"), form, reader)
    for read in (list(weights), list(reversed(weights)), weights[2:0:-1]):
        assert len(read) in (2, 3)
    assert readers == [[0, 1, 2], [2, 1, 0], [2, 1]]


@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric", "balanced", "given"])
def test_layers_have_the_same_bits_in_any_order(init, dtype):
    problem = fastdln.paper_regression()
    arguments = {"width": 37, "depth": 12, "init": init, "dtype": dtype}
    if init == "given":
        network = fastdln.initialize(1024, 10, width=37, depth=12, dtype=dtype)
        arguments = {"network": network, "method": "reduced", "rank_tolerance": 1e-4}
    weights = fastdln.train(problem, **arguments, steps=5, weight_decay=1e-3).network.weights
    forward = list(weights)
    orders = {
        "reversed": list(reversed(weights))[::-1],
        "a negative step": weights[::-1][::-1],
        "one by one, downwards": [weights[i] for i in range(11, -1, -1)][::-1],
        "from the end": [weights[i - 12] for i in range(12)],
    }
    orders["here and there"] = [weights[5 * i % 12] for i in range(12)]
    orders["here and there"] = [orders["here and there"][5 * i % 12] for i in range(12)]
    for read in orders.values():
        for layer, expected in zip(read, forward, strict=True):
            np.testing.assert_array_equal(layer, expected)
            assert not layer.flags.writeable
    for layer, expected in zip(weights[7:2:-2], forward[7:2:-2], strict=True):
        np.testing.assert_array_equal(layer, expected)


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
    lift = Lift(_Fixed(origin), lambda i: trained, lambda: c)
    expected = c * full + Q @ (trained - c * Q.T @ full @ P) @ P.T
    np.testing.assert_allclose(lift(0), expected, atol=1e-14)
    assert not lift(0).flags.writeable
    assert trained.flags.writeable


class _Fixed(Origins):
    def __init__(self, origin):
        self.origin = origin

    def __call__(self, index):
        return self.origin


def test_a_layer_without_an_origin_is_a_view_of_the_trained_one(rng):
    trained = rng.standard_normal((3, 2))
    lifted = Lift(NoOrigins(), lambda i: trained, lambda: 1.0)(0)
    assert np.shares_memory(lifted, trained)
    assert not lifted.flags.writeable
