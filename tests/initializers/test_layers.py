"""Initial layers: shapes, the law of each initialisation, and that a seed fixes the network."""

import naive
import numpy as np
import pytest

import fastdln
from fastdln.config import INITS
from fastdln.initializers.layers import Draw, equal_hidden_layers, hidden_layers
from fastdln.utils import threads

WIDTHS = [(), (1,), (5,), (7, 7), (7, 7, 7, 7), (3, 11, 4), (40, 2)]


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_shapes_and_products(widths, init, dtype):
    if init == "balanced" and min(widths, default=4) < 4:
        pytest.skip("balanced layers are at least as wide as min(d_x, d_y)")
    net = fastdln.initialize(6, 4, width=widths, init=init, dtype=dtype)
    full = (6, *widths, 4)
    assert [w.shape for w in net.weights] == list(zip(full[1:], full[:-1], strict=True))
    assert net.depth == len(widths) + 1
    assert net.widths == widths
    assert (net.d_x, net.d_y, net.dtype) == (6, 4, dtype)
    np.testing.assert_array_equal(net.layer_scales, np.sqrt(full[1:]))
    np.testing.assert_allclose(net.end_to_end(), naive.end_to_end(net.weights), atol=1e-5)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_orthogonal_layers_are_scaled_semi_orthogonal(widths):
    net = fastdln.initialize(6, 4, width=widths, init="orthogonal", seed=5)
    for scale, hat in zip(net.layer_scales, net.weights, strict=True):
        W = scale * hat
        tall = W if W.shape[0] >= W.shape[1] else W.T
        # Twenty roundings a column, times the depth through which the last layer is carried.
        np.testing.assert_allclose(
            tall.T @ tall, len(tall) * np.eye(tall.shape[1]), atol=1e-13 * len(tall)
        )


def test_identity_layers():
    net = fastdln.initialize(6, 4, width=5, depth=4, init="identity")
    for w in net.weights[1:-1]:
        np.testing.assert_array_equal(w, np.eye(5))
    ends = fastdln.initialize(6, 4, width=5, depth=2, init="orthogonal")
    np.testing.assert_array_equal(net.weights[0], ends.weights[0])
    np.testing.assert_allclose(net.weights[-1], ends.weights[-1])


@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric"])
def test_equal_hidden_layers_are_drawn_from_anywhere(init, dtype):
    draw = Draw((6, *(9,) * 6, 4), init, 5, np.dtype(dtype), 1.5)
    layers = list(hidden_layers(draw))
    for first, count in ((0, 5), (0, 1), (3, 2), (4, 1)):
        found = equal_hidden_layers(draw, first, count)
        np.testing.assert_array_equal(found, layers[first : first + count])
        assert found.dtype == dtype


def test_balanced_layers_are_balanced():
    net = fastdln.initialize(6, 4, width=(9, 5, 7), init="balanced", gain=1.5)
    for lower, upper in zip(net.weights, net.weights[1:], strict=False):
        np.testing.assert_allclose(upper.T @ upper, lower @ lower.T, atol=1e-14)


def test_balanced_end_to_end_matrix_is_gaussian():
    """Entries of A have variance 1/d_y; within 5 sigma over 60 × 50 entries."""
    A = fastdln.initialize(60, 50, width=60, depth=7, init="balanced").end_to_end()
    assert abs(50 * A.var() - 1) < 5 * np.sqrt(2 / A.size)


def test_zero_asymmetric_layers():
    net = fastdln.initialize(6, 4, width=5, depth=4, init="zero_asymmetric")
    for w in net.weights[:-1]:
        np.testing.assert_array_equal(w, np.eye(*w.shape))
    assert not net.weights[-1].any()


def test_near_identity_layers_are_one_over_depth_from_the_identity():
    net = fastdln.initialize(100, 100, width=100, depth=10, init="near_identity")
    for w in net.weights:
        assert 0.7 / 10 < np.linalg.norm(w - np.eye(100), 2) < 1.3 / 10


@pytest.mark.parametrize("init", INITS)
def test_gain_multiplies_every_layer(init):
    arguments = {"width": 7, "depth": 4, "init": init}
    one = fastdln.initialize(6, 4, **arguments)
    two = fastdln.initialize(6, 4, **arguments, gain=2.0)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(b, 2 * a, atol=1e-15)


def test_gaussian_entries_have_variance_one_over_rows():
    net = fastdln.initialize(100, 50, width=200, depth=3, init="gaussian")
    for w, scale in zip(net.weights, net.layer_scales, strict=True):
        W = scale * w
        assert abs(W.mean()) < 5 / np.sqrt(W.size)  # 5 sigma
        assert abs(W.var() - 1) < 5 * np.sqrt(2 / W.size)


def test_outputs_keep_the_norm_of_inputs_on_average():
    """The factor α makes ``E‖f(x)‖² = ‖x‖²``; over 400 seeds the mean is within 5 sigma."""
    x = np.ones(6) / np.sqrt(6)
    for init in ("gaussian", "orthogonal"):
        networks = (
            fastdln.initialize(6, 4, width=9, depth=4, init=init, seed=s) for s in range(400)
        )
        norms = [np.sum((net.end_to_end() @ x) ** 2) for net in networks]
        assert abs(np.mean(norms) - 1) < 5 * np.std(norms) / np.sqrt(len(norms))


@pytest.mark.parametrize("init", INITS)
def test_one_seed_is_one_network(init):
    arguments = {"width": 150, "depth": 5, "init": init, "seed": 11}
    with threads.limited(1):
        one = fastdln.initialize(30, 20, **arguments)
    with threads.limited(3):
        three = fastdln.initialize(30, 20, **arguments)
    single = fastdln.initialize(30, 20, **arguments, dtype="float32")
    for a, b, c in zip(one.weights, three.weights, single.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, atol=3e-5 if init != "gaussian" else 1e-6)
    if init == "zero_asymmetric":
        return
    other = fastdln.initialize(30, 20, **(arguments | {"seed": 12}))
    assert not np.allclose(one.weights[0], other.weights[0])


def test_layers_and_seeds_are_independent():
    """Correlations of 22,500 pairs of entries are below 5 sigma."""
    net = fastdln.initialize(150, 150, width=150, depth=4, init="gaussian", seed=1)
    other = fastdln.initialize(150, 150, width=150, depth=4, init="gaussian", seed=2)
    layers = [w.ravel() for w in (*net.weights, *other.weights)]
    correlations = np.corrcoef(layers) - np.eye(len(layers))
    assert np.abs(correlations).max() < 5 / 150


def test_balanced_needs_some_width():
    with pytest.raises(ValueError, match=r"at least min\(d_x, d_y\) = 4, but the narrowest is 3"):
        fastdln.initialize(6, 4, width=3, depth=3, init="balanced")


@pytest.mark.parametrize(
    "change", [{"d_x": 0}, {"d_y": -1}, {"d_x": 1.5}, {"init": "xavier"}, {"gain": 0}]
)
def test_bad_initialisation(change):
    with pytest.raises((ValueError, TypeError), match=next(iter(change))):
        fastdln.initialize(**({"d_x": 3, "d_y": 2, "width": 4, "depth": 2} | change))
