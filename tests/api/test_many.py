"""Networks trained together are those trained alone, bit for bit."""

import numpy as np
import pytest

import fastdln
from fastdln import parallel
from fastdln.many import train_many


@pytest.fixture
def problem(rng):
    return fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))


OPTIONS = {"width": 20, "depth": 3, "init": "gaussian", "steps": 8}


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_together_as_alone(problem, threads, dtype):
    rates = [1e-3, 1e-2, 1e30, 1e-3, None]
    seeds = [0, 1, 2, 0, 7]
    with parallel.limited(threads):
        together = train_many(
            problem, seeds=seeds, learning_rates=rates, dtype=dtype, tolerance=0.5, **OPTIONS
        )
    for seed, rate, got in zip(seeds, rates, together, strict=True):
        alone = fastdln.train(
            problem, seed=seed, learning_rate=rate, dtype=dtype, tolerance=0.5, **OPTIONS
        )
        np.testing.assert_array_equal(got.loss, alone.loss)
        assert got.status == alone.status
        for a, b in zip(got.network.weights, alone.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert together[2].status == "diverged"


def test_one_rate_serves_all_and_no_network_is_none(problem):
    results = train_many(problem, seeds=range(3), learning_rates=1e-3, **OPTIONS)
    assert [r.learning_rate for r in results] == [1e-3] * 3
    assert train_many(problem, seeds=[], **OPTIONS) == []


def test_bad_input_is_refused(problem):
    with pytest.raises(ValueError, match="each of the 2 seeds, not 3"):
        train_many(problem, seeds=[1, 2], learning_rates=[1, 2, 3], **OPTIONS)
    with pytest.raises(ValueError, match="greater than 0, not -1"):
        train_many(problem, seeds=[1, 2], learning_rates=-1, **OPTIONS)
    with pytest.raises(TypeError, match="seed must be given as seeds"):
        train_many(problem, seeds=[1], seed=1, **OPTIONS)
    with pytest.raises(ValueError, match="width"):
        train_many(problem, seeds=[1, 2], width=0, depth=2)
