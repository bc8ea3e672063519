"""Bases carried through hidden layers: what they are, in any order, on any number of threads."""

import numpy as np
import pytest

from fastdln.initializers.layers import Draw, equal_hidden_layers
from fastdln.reduction.carried_bases import PART_COLUMNS, CarriedBases, carried
from fastdln.utils import threads


def make_draw(m, depth, init="orthogonal", gain=1.0):
    return Draw((4, *(m,) * (depth - 1), 3), init, 11, np.dtype("float64"), gain)


def all_blocks(bases):
    return [bases.block(b) for b in range(bases.block_of(bases.hidden) + 1)]


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 11, 12, 18])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (13, 5), (40, 7)])
def test_bases_are_products_of_the_layers(m, k, depth, rng):
    draw, Q = make_draw(m, depth, gain=0.5), rng.standard_normal((m, k))
    bases = CarriedBases(draw, Q)
    expected = [Q]
    for layer in equal_hidden_layers(draw, 0, depth - 2):
        expected.append(layer / draw.gain @ expected[-1])
    for number, block in enumerate(all_blocks(bases)):
        first = number * bases.step
        assert len(block) <= bases.step + 1
        np.testing.assert_allclose(
            block, expected[first : first + len(block)], rtol=0, atol=1e-13 * m
        )
    for index in range(depth - 1):
        number = bases.block_of(index)
        assert 0 <= index - number * bases.step < len(bases.block(number))


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1]])
def test_bits_do_not_depend_on_the_order(order, rng):
    draw, Q = make_draw(21, 18), rng.standard_normal((21, 5))
    forward, other = all_blocks(CarriedBases(draw, Q)), CarriedBases(draw, Q)
    for number in order:
        np.testing.assert_array_equal(other.block(number), forward[number])


def test_checkpoints_are_about_the_root_of_the_depth(rng):
    bases = CarriedBases(make_draw(5, 102), rng.standard_normal((5, 2)))
    bases.block(bases.block_of(100))
    assert bases.step == 10
    assert len(bases._kept) <= 11


@pytest.mark.parametrize("init", ["identity", "zero_asymmetric"])
def test_multiples_of_the_identity_carry_nothing(init, rng):
    Q = rng.standard_normal((6, 2))
    for block in all_blocks(CarriedBases(make_draw(6, 7, init), Q)):
        np.testing.assert_array_equal(block, np.broadcast_to(Q, block.shape))


def test_bits_do_not_depend_on_the_number_of_threads(rng):
    draw, X = make_draw(33, 5), rng.standard_normal((33, 3 * PART_COLUMNS + 1))
    found = []
    for count in (1, 2, 3):
        with threads.limited(count):
            found.append(carried(draw, X, 0, 2))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
