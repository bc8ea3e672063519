"""Runs trained in a batch have the results of the same runs alone."""

import numpy as np
import pytest

import fastdln
from fastdln.config import TrainConfig
from fastdln.training.batched import (
    can_batch_on_cpu,
    can_batch_on_gpu,
    train_on_cpu,
    train_on_gpu,
)
from fastdln.training.prepared import prepare
from fastdln.training.run import Run

OPTIONS = {"width": 7, "depth": 3, "init": "gaussian", "steps": 12, "learning_rate": 1e-3}
SEEDS = range(5)


@pytest.fixture
def problem(rng):
    return fastdln.Regression(rng.standard_normal((4, 9)), rng.standard_normal((3, 9)))


def prepared(problem, **options):
    return prepare(problem, TrainConfig(**(OPTIONS | options)))


def results(found):
    return dict(each for each in found if isinstance(each, tuple))


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_on_the_cpu_every_result_is_that_of_the_run_alone(lanes, problem, dtype):
    run = prepared(problem, dtype=dtype)
    assert can_batch_on_cpu(run)
    got = results(train_on_cpu(((seed, Run.of(run, seed, 1e-3)) for seed in SEEDS), lanes))
    assert got.keys() == set(SEEDS)
    for seed, result in got.items():
        alone = Run.of(run, seed, 1e-3).train()
        np.testing.assert_array_equal(result.loss, alone.loss)
        assert (result.status, result.steps_taken) == (alone.status, alone.steps_taken)
        assert result.learning_rate == 1e-3
        for a, b in zip(result.network.weights, alone.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_runs_are_taken_when_a_lane_is_free(problem):
    """So that no more networks than lanes are drawn at a time."""
    run, taken, ended = prepared(problem), [], 0

    def runs():
        for seed in SEEDS:
            taken.append(seed)
            yield seed, Run.of(run, seed, 1e-3)

    for found in train_on_cpu(runs(), 2):
        ended += isinstance(found, tuple)
        assert len(taken) <= ended + 2
    assert ended == len(SEEDS)


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "adam"}, {"kernel": "zigzag"}, {"width": 200}],
    ids=str,
)
def test_what_the_batched_kernel_cannot_train_is_not_batched(options, problem):
    assert not can_batch_on_cpu(prepared(problem, **options))


def test_a_run_on_the_cpu_is_not_batched_on_a_gpu(problem):
    assert not can_batch_on_gpu(prepared(problem))


@pytest.mark.parametrize("keep_layers", [False, True])
def test_on_a_gpu_results_are_those_of_the_cpu(keep_layers, gpu, problem):
    runs = [
        Run.of(prepared(problem, width=width, device=gpu), seed, 1e-3)
        for seed, width in enumerate((3, 7, 10))
    ]
    assert can_batch_on_gpu(runs[0].prepared)
    seen = 0
    kept = []
    for found in train_on_gpu(runs, keep_layers):
        if not isinstance(found, tuple):
            continue
        index, result = found
        seen += 1
        kept.append((index, result))
        alone = Run.of(prepared(problem, width=(3, 7, 10)[index]), index, 1e-3).train()
        np.testing.assert_allclose(result.loss, alone.loss, rtol=1e-10)
        assert (result.status, result.device) == ("completed", "gpu")
    assert seen == 3
    for index, result in kept if keep_layers else ():
        alone = Run.of(prepared(problem, width=(3, 7, 10)[index]), index, 1e-3).train()
        for a, b in zip(result.network.weights, alone.network.weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
