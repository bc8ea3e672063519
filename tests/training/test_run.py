"""A run: the workload that a backend gets, the result that comes of it, and where it goes on."""

import naive
import numpy as np
import pytest

import fastdln
from fastdln.backends.interface import formed
from fastdln.config import TrainConfig
from fastdln.optim.loop import START
from fastdln.rng import seed_key
from fastdln.training.prepared import prepare
from fastdln.training.run import Run
from fastdln.utils.stopwatch import Stopwatch

OPTIONS = {"width": 7, "depth": 3, "init": "gaussian", "steps": 12}
RATE = 1e-3


@pytest.fixture
def problem(rng):
    # More inputs than samples: the first layer is trained on a subspace.
    return fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((3, 5)))


def made(problem, key=4, **options):
    return Run.of(prepare(problem, TrainConfig(**(OPTIONS | options))), key, RATE)


def test_the_workload_is_what_the_options_say(problem):
    work = made(problem, momentum=0.5, dtype="float32", kernel="two-pass").workload
    assert (work.widths, list(work.rows)) == ((5, 7, 7, 3), [7, 7, 3])
    assert (work.steps, work.learning_rate, work.dtype) == (12, RATE, np.dtype("float32"))
    assert (work.optimizer.momentum, work.kernel, work.schedule) == (0.5, "two-pass", None)
    assert work.checkpoint is START


def test_the_layers_to_train_are_the_drawn_ones_on_the_span_of_the_inputs(problem):
    network = fastdln.initialize(8, 3, width=7, depth=3, init="gaussian", seed=4)
    run = Run.of(prepare(problem, TrainConfig(**OPTIONS, seed=4)), seed_key(4), RATE)
    first, *others = (formed(layer) for layer in run.workload.draw())
    basis = run.prepared.objective.basis
    np.testing.assert_allclose(first, network.weights[0] @ basis, atol=1e-13)
    for got, expected in zip(others, network.weights[1:], strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_the_result_is_that_of_naive_training_at_full_width(init, problem):
    network = fastdln.initialize(8, 3, width=20, depth=3, init=init, seed=4)
    config = TrainConfig(width=20, depth=3, init=init, steps=12)
    result = Run.of(prepare(problem, config), seed_key(4), RATE).train()
    losses, weights = naive.train(network.weights, problem.X, problem.Y, RATE, 12)
    np.testing.assert_allclose(result.loss, losses, rtol=1e-11)
    for got, expected in zip(result.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)
    assert result.method == {"gaussian": "dense", "orthogonal": "reduced"}[init]
    assert (result.steps_taken, result.status, result.state) == (12, "completed", None)


def test_the_callback_gets_the_losses_of_the_run(problem):
    seen = {}
    result = made(problem).train(seen.__setitem__)
    assert 12 in seen
    assert all(result.loss[step] == loss for step, loss in seen.items())


def test_seconds_count_from_the_start_that_is_given(problem):
    prepared = prepare(problem, TrainConfig(**OPTIONS))
    result = Run.of(prepared, 4, RATE, watch=Stopwatch(1000.0)).train()
    assert 1000 <= result.seconds < 1600


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.5}, {"optimizer": "adam"}, {"batch_size": 2}], ids=str
)
def test_a_state_holds_where_its_run_goes_on(options, problem):
    whole = made(problem, **options).train()
    part = made(problem, steps=5, resumable=True, **options).train()
    run = part.state.run(part.loss, Stopwatch(part.seconds), steps=7)
    arrays = run.prepared.optimizer.state_arrays
    assert (run.checkpoint.steps, run.checkpoint.first_loss) == (5, part.loss[0])
    assert [len(each) for each in run.checkpoint.optimizer_state] == [3] * arrays
    if run.schedule is not None:
        np.testing.assert_array_equal(run.workload.schedule(0), run.schedule(5))
    end = run.train()
    np.testing.assert_allclose(end.loss, whole.loss, rtol=1e-12)
    assert (end.steps_taken, end.loss.size) == (12, 13)
    assert end.seconds >= part.seconds


def test_origins_are_not_kept_where_layers_are_not(problem):
    run = made(problem, init="orthogonal", width=20)
    run.keeps_origins = False
    widths = [w.shape for w in run.train().network.weights]
    # Without origins there are only the trained layers.
    assert widths == [(8, 5), (8, 8), (3, 8)]
