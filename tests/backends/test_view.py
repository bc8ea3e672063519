"""A view's products and gradients against naive ones."""

import naive
import numpy as np
import pytest
from conftest import RTOL
from packed import random_layers

from fastdln import Logistic, Regression
from fastdln.backends.view import TrainingView
from fastdln.objectives.base import reduced_objective

# One layer, width 1, d above and below d_y, rectangular hidden layers.
SHAPES = [(4, 3), (3, 4), (7, 1, 3), (7, 19, 33, 3), (3, 19, 5, 7)]


def problem(kind, widths, rng):
    X = rng.standard_normal((widths[0], 20))
    if kind == "logistic":
        return Logistic(X, rng.integers(0, widths[-1], 20))
    return Regression(X, rng.standard_normal((widths[-1], 20)))


def view_of(weights, kind, widths, rng):
    objective = reduced_objective(problem(kind, widths, rng))
    return TrainingView(3, 0.5, len(weights), weights.__getitem__, objective), objective


def close(got, expected, dtype):
    assert not got.flags.writeable
    assert got.dtype == np.float64
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=RTOL[dtype] * (1 + np.abs(expected).max())
    )


@pytest.mark.parametrize("kind", ["regression", "logistic"])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_products_and_gradients(widths, kind, dtype, rng):
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    view, objective = view_of(weights, kind, widths, rng)
    assert (view.step, view.loss, view.depth) == (3, 0.5, len(weights))
    M = naive.end_to_end(weights)
    G = objective.evaluate(M)[1]
    close(view.end_to_end, M, dtype)
    close(view.gradient, G, dtype)
    for i in range(view.depth):
        close(view.suffix_products[i], naive.end_to_end(weights[i:]), dtype)
        close(view.prefix_products[i + 1], naive.end_to_end(weights[: i + 1]), dtype)
    close(view.suffix_products[-1], np.eye(widths[-1]), dtype)
    close(view.prefix_products[0], np.eye(widths[0]), dtype)
    for i, gradient in enumerate(naive.backpropagation(weights, G)):
        got = view.layer_gradient(i)
        assert got.shape == weights[i].shape
        np.testing.assert_allclose(
            got, gradient, rtol=0, atol=RTOL[dtype] * (1 + np.abs(gradient).max())
        )


def test_layers_are_read_once_without_a_copy(dtype, rng):
    weights, read = [w.astype(dtype) for w in random_layers((5, 7, 3), rng)], []

    def layer(index):
        read.append(index)
        return weights[index]

    view = TrainingView(0, 1.0, 2, layer, None)
    assert not read
    for got, w in zip(view.layers * 2, weights * 2, strict=True):
        assert np.shares_memory(got, w)
        assert got.dtype == dtype
        assert not got.flags.writeable
    assert read == [0, 1]
    assert all(w.flags.writeable for w in weights)
