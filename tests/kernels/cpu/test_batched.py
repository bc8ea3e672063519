"""Batched products and gradient descent against NumPy, SIMD lane by lane."""

import naive
import numpy as np
import pytest

from fastdln.kernels.cpu import batched
from fastdln.kernels.cpu.groups import Operand, Regression
from fastdln.kernels.cpu.layout import aligned_zeros, make_layout
from fastdln.kernels.cpu.tiles import lanes


def lanewise(matrices, dtype):
    """Store matrices (one a lane) as the kernels take them: lanes last, flat."""
    stored = aligned_zeros(matrices.size, dtype)
    stored.reshape(*matrices.shape[1:], -1)[:] = np.moveaxis(matrices, 0, -1)
    return stored


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "count"),
    [(1, 1, 1), (3, 2, 1), (5, 4, 7), (10, 26, 26), (7, 13, 5), (20, 3, 17), (11, 9, 2)],
)
def test_multiply(rows, columns, count, overwrite, dtype, rng):
    n = lanes(dtype)
    X, Y, start = (
        rng.standard_normal((n, *shape)).astype(dtype)
        for shape in ((rows, count), (count, columns), (rows, columns))
    )
    expected = X.astype(np.float64) @ Y.astype(np.float64) + (0 if overwrite else start)
    atol = 4 * (count + 1) * np.finfo(dtype).eps
    for transposed in (False, True):
        # Co-states read layers transposed: the columns of Y are rows in memory.
        stored = lanewise(Y.transpose(0, 2, 1) if transposed else Y, dtype)
        y_k, y_c = (1, count) if transposed else (columns, 1)
        out = lanewise(np.full_like(start, np.nan) if overwrite else start, dtype)
        batched.multiply(
            Operand(lanewise(X, dtype), 0, count, 1),
            Operand(stored, 0, y_k, y_c),
            Operand(out, 0, columns, 1),
            rows,
            columns,
            count,
            overwrite,
        )
        got = np.moveaxis(out.reshape(rows, columns, n), -1, 0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_steps_are_those_of_naive_descent(dtype, rtol, rng):
    """Every lane at its own step size and weight decay; one lane idle, at zero weights."""
    widths, steps = (3, 6, 4, 2), 5
    chain = batched.new_batched_chain(make_layout(widths, dtype))
    n = chain.sums.size
    weights = [rng.standard_normal((a, b, n)) / 2 for b, a in zip(widths, widths[1:], strict=False)]
    for i, w in enumerate(weights):
        w[:, :, 0] = 0
        chain.layer(i)[:] = w
    S, T = rng.random((2, 3)) + 0.5, rng.standard_normal((2, 3))
    step_sizes, decay = 0.05 * rng.random((3, n)), 1 - 0.1 * rng.random(n)
    step_sizes[:, 0], decay[0] = 0, 1
    losses, floors = np.empty((steps + 1, n)), np.full(n, -np.inf)
    descent = batched.BatchedStep(step_sizes.astype(dtype), decay.astype(dtype))
    regression = Regression(S, T, 0.25, losses)
    assert batched.descend_batch(chain, descent, regression, floors) == steps
    for lane in range(n):
        layers = [w[:, :, lane] for w in weights]
        for step in range(steps + 1):
            residual = naive.end_to_end(layers) * S - T
            assert losses[step, lane] == pytest.approx(0.25 + 0.5 * np.sum(residual**2), rel=rtol)
            if step < steps:
                slopes = naive.backpropagation(layers, residual * S)
                layers = [
                    decay[lane] * w - eta * g
                    for w, g, eta in zip(layers, slopes, step_sizes[:, lane], strict=True)
                ]
        for i, w in enumerate(layers):
            np.testing.assert_allclose(chain.layer(i)[:, :, lane], w, rtol=0, atol=10 * rtol)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
@pytest.mark.parametrize("floor", [np.inf, 0.0])
def test_steps_end_as_soon_as_one_network_has_ended(floor, dtype):
    """At a loss at most its floor; a loss that is not finite ends them in any case."""
    chain = batched.new_batched_chain(make_layout((2, 2), dtype))
    n = chain.sums.size
    chain.layer(0)[:] = 1 if floor else np.inf
    losses, floors = np.empty((9, n)), np.full(n, -np.inf)
    floors[n - 1] = floor
    descent = batched.BatchedStep(np.zeros((1, n), dtype), np.ones(n, dtype))
    regression = Regression(np.ones((2, 2)), np.zeros((2, 2)), 0.0, losses)
    assert batched.descend_batch(chain, descent, regression, floors) == 0


def test_wide_layers_are_refused():
    too_wide = 2 * lanes("float64") + 1
    with pytest.raises(ValueError, match=f"width {too_wide} are too wide"):
        batched.new_batched_chain(make_layout((3, too_wide, 2), "float64"))
