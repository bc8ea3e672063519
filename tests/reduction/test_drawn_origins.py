"""Drawn origins: the same bits in any order, from threads and copies; few layers drawn twice."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastdln
from fastdln.initializers.layers import Draw, first_layer
from fastdln.reduction import drawn_origins, initial_layers
from fastdln.reduction.plan import plan

DEPTH = 13


def make_origins(width=30, depth=DEPTH, init="orthogonal", dtype="float64"):
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=width, depth=depth, init=init, dtype=dtype)
    draw = Draw(chosen.full_widths, init, 3, chosen.dtype, 1.5)
    return initial_layers.drawn(draw, chosen, problem.reduced.basis).origins


def assert_equal_origins(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


ORDERS = {
    "forward": range(DEPTH),
    "reverse": range(DEPTH - 1, -1, -1),
    "every other": [*range(0, DEPTH, 2), *range(1, DEPTH, 2)],
    "to and fro": [5, 6, 7, 8, 7, 6, 5, 4, 4, 5, 11, 12, 0, 1],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("width", "dtype"), [(30, "float64"), (30, "float32"), (103, "float64")])
def test_bits_do_not_depend_on_the_order(width, order, dtype):
    origins = make_origins(width, dtype=dtype)
    expected = [origins(i) for i in range(DEPTH)]
    for read in (make_origins(width, dtype=dtype), make_origins(width, dtype=dtype).reader()):
        for i in ORDERS[order]:
            assert_equal_origins(read(i), expected[i])


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_layers_read_in_order_are_drawn_once(order, monkeypatch):
    drawn = []

    def recorded(draw, first, count):
        drawn.append(count)
        return draw_layers(draw, first, count)

    draw_layers = drawn_origins.equal_hidden_layers
    monkeypatch.setattr(drawn_origins, "equal_hidden_layers", recorded)
    read = make_origins().reader()
    for i in ORDERS[order]:
        read(i)
    assert sum(drawn) == DEPTH - 2
    assert len(drawn) < DEPTH - 2
    assert read._drawn is None  # nothing is kept after the last layer


def test_layers_read_here_and_there_are_drawn_alone(monkeypatch):
    drawn = []
    draw_layers = drawn_origins.equal_hidden_layers
    monkeypatch.setattr(
        drawn_origins,
        "equal_hidden_layers",
        lambda draw, first, count: drawn.append(count) or draw_layers(draw, first, count),
    )
    origins = make_origins()
    for i in (9, 3, 6, 1):
        origins(i)
    assert drawn == [1, 1, 1, 1]


def test_threads_may_read_one_object():
    expected = make_origins()
    expected = [expected(i) for i in range(DEPTH)]
    origins, orders = make_origins(), [ORDERS["forward"], ORDERS["reverse"]] * 2
    with ThreadPoolExecutor(4) as pool:
        passes = pool.map(lambda order: [(i, origins(i)) for i in order], orders)
        for read in passes:
            for i, origin in read:
                assert_equal_origins(origin, expected[i])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_after_reading(copied):
    origins = make_origins()
    origins(4)
    assert_equal_origins(copied(origins)(7), origins(7))


@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric"])
@pytest.mark.parametrize(("d_x", "m"), [(5, 9), (9, 5), (7, 7), (1, 1)])
def test_products_by_the_first_layer(init, d_x, m, rng):
    draw = Draw((d_x, m, m, 3), init, 5, np.dtype("float64"), 0.75)
    W, X, Y = first_layer(draw), rng.standard_normal((d_x, 2)), rng.standard_normal((m, 4))
    np.testing.assert_allclose(drawn_origins.first_layer_times(X, draw), W @ X, atol=1e-14 * 9)
    np.testing.assert_allclose(
        drawn_origins.first_layer_transposed_times(Y, draw), W.T @ Y, atol=1e-14 * 9
    )
