"""Products with layers on the caller's arrays, layer by layer, for any team."""

import naive
import numpy as np
import pytest
from chain_cases import close, layers_of
from packed import MOST_MEMBERS, on_team

from fastdln.kernels.cpu import strided
from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.layout import aligned_zeros, pad_rows
from fastdln.kernels.cpu.strided import StridedArrays, StridedChain
from fastdln.kernels.cpu.tiles import lanes

# Elements between two rows of a matrix in memory, and between two matrices.
GAP = 3
# Rows and columns: 1, fewer than a vector, just over one, primes, more than a block of rows.
SHAPES = [(1, 1), (5, 3), (4, 16), (3, 17), (67, 131), (129, 33), (6, 64)]
TEAMS = [1, 2, MOST_MEMBERS]


def packed_arrays(matrices, dtype):
    """Copy matrices to one memory with gaps; return it, and a table of their places."""
    table, size = [], GAP
    for matrix in matrices:
        rows, columns = matrix.shape
        table.append((size, rows, columns, columns + GAP))
        size += rows * (columns + GAP)
    base = np.full(size, 7, dtype)
    table = np.array(table, np.int64)
    for view, matrix in zip(views(base, table), matrices, strict=True):
        view[:] = matrix
    return StridedArrays(base, table)


def views(base, table):
    """Return the matrices of a table."""
    return [
        base[o : o + rows * stride].reshape(rows, stride)[:, :columns]
        for o, rows, columns, stride in table[:, :4]
    ]


class Chain:
    """Layers of a chain, with memory for q × width products below each, and above the last."""

    def __init__(self, weights, q, dtype):
        base, places = packed_arrays(weights, dtype)
        self.weights, self.q, self.q_padded, lane = weights, q, pad_rows(q), lanes(dtype)
        self.widths = [weights[0].shape[1], *(len(w) for w in weights)]
        self.padded = np.array([-(-n // lane) * lane for n in self.widths])
        self.starts = self.q_padded * (np.cumsum(self.padded) - self.padded)
        slots = np.stack([self.starts, self.padded], axis=1)
        # The last row of a table of layers up to L has the place of the product above them.
        above = np.zeros((1, 4), np.int64)
        self.table = np.concatenate([np.concatenate([places, above]), slots], axis=1)
        self.chain = StridedChain(base, self.table[:-1], q, self.q_padded, lane)
        self.up = self.chain._replace(table=self.table)
        # Garbage in the buffers must not matter.
        self.products = aligned_zeros(self.q_padded * int(self.padded.sum()), dtype) + np.nan

    def product(self, slot):
        """Return the product in a slot, its padding included."""
        rows = self.products[self.starts[slot] :][: self.q_padded * self.padded[slot]]
        return rows.reshape(self.q_padded, self.padded[slot])

    def put(self, slot, matrix):
        """Write a product, with zeros in its padding; return it as an `Operand`."""
        self.product(slot)[:] = 0
        self.product(slot)[: self.q, : self.widths[slot]] = matrix
        return self.operand(slot)

    def operand(self, slot):
        return Operand(self.products, int(self.starts[slot]), int(self.padded[slot]), 1)

    def check(self, slot, expected, dtype):
        got, width = self.product(slot), self.widths[slot]
        close(got[: self.q, :width], expected, dtype)
        assert not got[:, width:].any()


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("q", [1, 3, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_with_a_layer_and_with_its_transpose(shape, q, team, dtype, rng):
    (W,) = layers_of(shape[::-1], dtype, rng)
    X = rng.standard_normal((q, shape[0])).astype(dtype)
    case = Chain([W], q, dtype)
    on_team(team, strided.multiply_down, case.chain, 0, case.put(1, X), case.products)
    case.check(0, X.astype(float) @ W, dtype)

    Y = rng.standard_normal((q, shape[1])).astype(dtype)
    case = Chain([W], q, dtype)
    on_team(team, strided.multiply_up, case.chain, 0, case.put(0, Y), case.operand(1))
    case.check(1, Y.astype(float) @ W.T, dtype)


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_outer_product_writes_the_matrix_only(shape, team, dtype, rng):
    q, (rows, columns) = 5, shape
    target = packed_arrays([np.full((2, 2), 7), np.full(shape, np.nan)], dtype)
    X, Y = (rng.standard_normal((q, n)).astype(dtype) for n in shape)
    x, y = Operand(X.ravel(), 0, 1, rows), Operand(Y.ravel(), 0, columns, 1)
    on_team(team, strided.outer, x, y, target, 1, q, lanes(dtype))
    written = views(*target)[1]
    close(written, X.T.astype(float) @ Y, dtype)
    written[:] = 7
    assert (target.base == 7).all()


WIDTHS = [(5, 17, 3), (3, 2, 11, 6), (16, 67, 131, 10), (1, 33, 1)]


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_products_and_gradients_of_a_chain(widths, team, dtype, rng):
    """Up from G with suffix products, and down from Gᵀ with prefix products."""
    weights, q = layers_of(widths, dtype, rng), 4
    depth = len(weights)
    X = rng.standard_normal((q, widths[-1])).astype(dtype)  # M is X W_L ··· W_1
    G = rng.standard_normal((q, widths[0])).astype(dtype)
    expected = naive.backpropagation([*weights, X], G)
    case = Chain(weights, q, dtype)
    on_team(team, strided.products_down, case.chain, case.put(depth, X), case.products)
    for slot in range(depth):
        case.check(slot, naive.end_to_end([*weights[slot:], X]), dtype)

    # The layers up to L − 1 have gradients; the last co-state is that of X.
    C, D = (aligned_zeros(case.q_padded * int(case.padded.max()), dtype) for _ in range(2))
    C[: case.q_padded * case.padded[0]].reshape(-1, case.padded[0])[:q, : widths[0]] = G
    target = packed_arrays([np.full_like(w, np.nan) for w in weights], dtype)
    on_team(team, strided.gradients_up, case.up, C, D, case.products, target)
    for got, g in zip(views(*target), expected, strict=False):
        close(got, g, dtype)
    last = (C, D)[depth % 2][: case.q_padded * case.padded[-1]].reshape(-1, case.padded[-1])
    close(last[:q, : widths[-1]], expected[-1], dtype)


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_products_and_gradients_from_the_input(widths, team, dtype, rng):
    weights, q = layers_of(widths, dtype, rng), 4
    depth = len(weights)
    Z = rng.standard_normal((widths[0], q)).astype(dtype)  # M is W_L ··· W_1 Z
    G = rng.standard_normal((widths[-1], q)).astype(dtype)
    case = Chain(weights, q, dtype)
    on_team(team, strided.products_up, case.up, case.put(0, Z.T), case.products)
    for slot in range(1, depth + 1):
        case.check(slot, naive.end_to_end([Z, *weights[:slot]]).T, dtype)

    below = Chain(weights, q, dtype)
    E = below.put(depth, G.T)
    target = packed_arrays([np.full_like(w, np.nan) for w in weights], dtype)
    on_team(team, strided.gradients_down, case.chain, E, case.products, below.products, target)
    expected = naive.backpropagation([Z, *weights], G)
    for got, g in zip(views(*target), expected[1:], strict=True):
        close(got, g, dtype)
    below.check(0, expected[0].T, dtype)
