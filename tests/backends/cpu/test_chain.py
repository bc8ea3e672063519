"""The strided chain kernels against naive products, for every layout of rows in memory."""

import naive
import numpy as np
import pytest
from chain_cases import close, layers_of

from fastdln.backends.cpu import chain

# One layer, two, width 1, d above and below d_y, fewer columns than a vector, just over one, more
# rows than a row block and no multiple of four, q above the width.
SHAPES = [
    (4, 7),
    (7, 4),
    (5, 1, 3),
    (3, 17, 5),
    (5, 17, 3),
    (16, 67, 131, 10),
    (10, 131, 67, 16),
    (1, 33, 1),
    (3, 2, 11, 6),
    (70, 20, 33, 65),
    (40, 150, 16, 39),
]


@pytest.mark.parametrize("order", ["plain", "rows of a larger array", "transposed", "read-only"])
@pytest.mark.parametrize("team_work", [chain.TEAM_WORK, 1])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_products_and_gradients(widths, team_work, order, dtype, rng):
    weights = layers_of(widths, dtype, rng)
    G = rng.standard_normal((widths[-1], widths[0])).astype(dtype)
    if order == "rows of a larger array":
        weights = [np.pad(w, ((0, 1), (0, 3)), constant_values=9)[:-1, :-3] for w in weights]
    elif order == "transposed":
        weights = [np.asfortranarray(w) for w in weights]
    elif order == "read-only":
        for w in weights:
            w.flags.writeable = False
    M, outs = np.full_like(G, np.nan), [np.full_like(w, np.nan, order="C") for w in weights]
    chain.end_to_end(weights, M, team_work=team_work)
    chain.gradients(weights, G, outs, team_work=team_work)
    close(M, naive.end_to_end(weights), dtype)
    for got, g in zip(outs, naive.backpropagation(weights, G), strict=True):
        close(got, g, dtype)


def test_nothing_is_written_outside_the_outputs(rng):
    weights = layers_of((5, 17, 9, 3), "float32", rng)
    memory = np.full(400, 7, np.float32)
    outs = [
        memory[10:95].reshape(17, 5),
        memory[100:253].reshape(9, 17),
        memory[260:287].reshape(3, 9),
    ]
    chain.gradients(weights, np.ones((3, 5), np.float32), outs)
    rest = np.concatenate([memory[:10], memory[95:100], memory[253:260], memory[287:]])
    assert (rest == 7).all()


def test_a_deep_chain_is_one_call(rng):
    weights = [np.eye(3)] * 20_000
    G = rng.standard_normal((3, 3))
    M, outs = np.empty((3, 3)), [np.empty((3, 3)) for _ in weights]
    chain.end_to_end(weights, M)
    chain.gradients(weights, G, outs)
    np.testing.assert_array_equal(M, np.eye(3))
    np.testing.assert_array_equal(outs[777], G)
