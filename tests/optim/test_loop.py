"""Bookkeeping of the training loop: spans, losses and status."""

import math

import numpy as np
import pytest

from fastdln.objectives.base import reduced_objective
from fastdln.objectives.regression import Regression
from fastdln.optim.loop import (
    SPAN_GROWTH,
    SPAN_SECONDS,
    Checkpoint,
    LossRecord,
    next_span,
    relative_floor,
    status_of,
)
from fastdln.optim.minibatches import Minibatches


@pytest.fixture
def problem(rng):
    # As many independent inputs as rows: the reduction to their span is a rotation only.
    return Regression(rng.standard_normal((3, 8)), rng.standard_normal((2, 8)))


def matrices(count, rng):
    return [rng.standard_normal((2, 3)) for _ in range(count)]


def test_losses_and_gradients_are_those_of_the_objective(problem, rng):
    objective = reduced_objective(problem)
    record = LossRecord(objective, 3, tolerance=0.0)
    assert (record.step, record.floor) == (-1, -1.0)
    for step, M in enumerate(matrices(4, rng)):
        gradient = record.record(M)
        U = objective.basis
        assert record.step == step
        assert record.losses[step] == pytest.approx(problem.loss(M @ U.T), rel=1e-12)
        np.testing.assert_allclose(gradient, problem.gradient(M @ U.T) @ U, rtol=1e-11)
    assert (record.status, record.finished) == ("completed", False)


def test_the_gradient_is_that_of_the_steps_minibatch(problem, rng):
    objective, schedule = reduced_objective(problem), Minibatches(8, 3, key=2)
    record = LossRecord(objective, 3, 0.0, schedule)
    for step, M in enumerate(matrices(4, rng)):
        expected = objective.batch_gradient(M, schedule(step))
        np.testing.assert_array_equal(record.record(M), expected)
        assert record.losses[step] == objective.evaluate(M)[0]


def test_convergence_is_relative_to_the_first_loss(problem, rng):
    objective = reduced_objective(problem)
    (M,) = matrices(1, rng)
    first = objective.evaluate(M)[0]
    record = LossRecord(objective, 2, tolerance=1 - 1e-6)
    record.record(M)
    assert (record.floor, record.finished) == ((1 - 1e-6) * first, False)
    record.record(M - 1e-3 * objective.evaluate(M)[1])
    assert (record.status, record.finished) == ("converged", True)


def test_after_a_checkpoint_it_is_relative_to_the_first_loss_of_all(problem, rng):
    objective = reduced_objective(problem)
    (M,) = matrices(1, rng)
    checkpoint = Checkpoint(steps=5, first_loss=1e6)
    record = LossRecord(objective, 2, tolerance=0.5, checkpoint=checkpoint)
    record.record(M)
    assert (record.floor, record.status) == (5e5, "converged")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_overflowed_matrix_diverges_without_an_evaluation(bad, problem, rng):
    record = LossRecord(reduced_objective(problem), 2, tolerance=1e-9)
    good, wild = matrices(2, rng)
    record.record(good)
    wild[0, 0] = bad
    assert record.record(wild) is None
    assert math.isnan(record.losses[1])
    assert (record.status, record.finished) == ("diverged", True)


def test_a_first_loss_below_zero_is_refused():
    class Negative:
        basis, rank = np.eye(3), 3

        def evaluate(self, M):
            return -1.0, M

    with pytest.raises(ValueError, match="a loss must be at least 0, but is -1 at first"):
        LossRecord(Negative(), 2, tolerance=0.0).record(np.ones((2, 3)))


def test_the_status_follows_from_the_last_loss():
    assert [status_of(loss, 0.5) for loss in (0.6, 0.5, 0.0)] == [
        "completed",
        "converged",
        "converged",
    ]
    assert {status_of(loss, 0.5) for loss in (np.nan, np.inf)} == {"diverged"}


def test_the_default_floor_is_ten_roundings_squared(dtype):
    dtype = np.dtype(dtype)
    assert relative_floor(None, dtype) == (10 * np.finfo(dtype).eps) ** 2
    assert relative_floor(0.25, dtype) == 0.25


def test_spans_fill_their_time_and_grow_slowly():
    assert next_span(100, 100, SPAN_SECONDS) == pytest.approx(100, abs=1)
    assert next_span(100, 100, 2 * SPAN_SECONDS) == pytest.approx(50, abs=1)
    assert next_span(100, 100, 1e-12) == SPAN_GROWTH * 100
    assert next_span(1, 1, 100.0) == 1
    assert next_span(8, 0, 0.0) == SPAN_GROWTH * 8
