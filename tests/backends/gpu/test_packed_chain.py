"""Both packed chains on the thread shim: their layers, and single steps against naive ones."""

import gpu_cases as cases
import naive
import numpy as np
import pytest
from cuda_cases import ShimLauncher

import fastdln
from fastdln.backends.gpu.packed_chain import TwoPassChain, ZigzagChain
from fastdln.optim.optimizers import Optimizer

CHAINS = [ZigzagChain, TwoPassChain]
# One layer, width 1, d above and below d_y: two-pass stores the last transposed.
SHAPES = [(5, 3), (5, 7, 1, 3), (3, 9, 4, 7)]


def case(widths, dtype, rng, **options):
    """Return a regression and a workload on it."""
    d, d_y = widths[0], widths[-1]
    problem = fastdln.Regression(rng.standard_normal((d, 12)), rng.standard_normal((d_y, 12)))
    return problem.reduced, cases.workload(widths, problem.reduced, rng, 3, dtype=dtype, **options)


def close(got, expected, dtype):
    atol = cases.RTOL[dtype] * (1 + np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("chain_type", CHAINS)
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_a_chain_holds_the_layers_and_their_product(widths, chain_type, dtype, rng):
    _, work = case(widths, dtype, rng)
    layers = [w.astype(dtype) for w in work.draw()]
    chain = chain_type(ShimLauncher(dtype), work, None)
    assert chain.depth == len(layers)
    chain.begin()
    for i, w in enumerate(layers):
        np.testing.assert_array_equal(chain.layer(i), w)
    M = chain.end_to_end()
    assert M.dtype == np.float64
    close(M, naive.end_to_end(layers), dtype)


@pytest.mark.parametrize("chain_type", CHAINS)
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_steps_with_gradients_of_the_caller(widths, chain_type, dtype, rng):
    objective, work = case(widths, dtype, rng)
    chain = chain_type(ShimLauncher(dtype), work, None)
    chain.begin()
    for step in range(2):
        _, G = objective.evaluate(np.asarray(chain.end_to_end()))
        chain.put_gradient(G, step)
        chain.take_step(step)
    _, expected = cases.expected(work, 2)
    close(chain.end_to_end(), naive.end_to_end(expected), dtype)
    for i, w in enumerate(expected):
        close(chain.layer(i), w, dtype)


@pytest.mark.parametrize("chain_type", CHAINS)
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_spans_of_steps_with_losses_of_the_kernel(widths, chain_type, dtype, rng):
    objective, work = case(widths, dtype, rng)
    chain = chain_type(ShimLauncher(dtype), work, objective)
    losses, expected = cases.expected(work)
    step, found = chain.advance(0, 0)
    assert step == 0
    np.testing.assert_allclose(found, losses[:1], rtol=cases.RTOL[dtype])
    while step < 3:
        reached, found = chain.advance(step, 3)
        assert step < reached <= 3
        np.testing.assert_allclose(found, losses[step : reached + 1], rtol=cases.RTOL[dtype])
        step = reached
    for i, w in enumerate(expected):
        close(chain.layer(i), w, dtype)


@pytest.mark.parametrize("chain_type", CHAINS)
def test_stopped_chains_no_longer_move(chain_type, rng):
    objective, work = case((5, 7, 3), "float64", rng)
    chain = chain_type(ShimLauncher("float64"), work, None)
    chain.begin()
    _, G = objective.evaluate(np.asarray(chain.end_to_end()))
    before = [np.array(chain.layer(i)) for i in range(2)]
    chain.stop_where(np.asarray(True))
    chain.put_gradient(G, 0)
    chain.take_step(0)
    for i, w in enumerate(before):
        np.testing.assert_array_equal(chain.layer(i), w)


@pytest.mark.parametrize("chain_type", CHAINS)
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_the_velocity_after_one_step_is_the_gradient(widths, chain_type, dtype, rng):
    """Of the normalised layers, whose weight decay is λ·rows; the momentum does not matter yet."""
    optimizer = Optimizer(momentum=0.7, weight_decay=0.1)
    objective, work = case(widths, dtype, rng, optimizer=optimizer)
    layers = list(work.draw())
    chain = chain_type(ShimLauncher(dtype), work, None)
    chain.begin()
    G = objective.evaluate(naive.end_to_end(layers))[1]
    chain.put_gradient(G, 0)
    chain.take_step(0)
    for i, (w, g) in enumerate(zip(layers, naive.backpropagation(layers, G), strict=True)):
        close(chain.state_array(0, i), g + 0.1 * len(w) * w, dtype)
