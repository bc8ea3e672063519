"""Networks trained together are those trained alone, bit for bit."""

import os
import signal
import threading

import numpy as np
import pytest

import fastdln
from fastdln.training import many
from fastdln.training.many import train_many
from fastdln.utils import threads as thread_limits


@pytest.fixture
def problem(rng):
    return fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))


OPTIONS = {"width": 20, "depth": 3, "init": "gaussian", "steps": 8}


def same(got, alone):
    np.testing.assert_array_equal(got.loss, alone.loss)
    assert (got.status, got.steps_taken) == (alone.status, alone.steps_taken)
    for a, b in zip(got.network.weights, alone.network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(params=["batched", "alone"])
def batching(request, monkeypatch):
    wanted = request.param == "batched"
    monkeypatch.setattr(many, "batching_pays", lambda widths, dtype, count: wanted)
    return wanted


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_together_as_alone(problem, threads, dtype, batching):
    rates = [1e-3, 1e-2, 1e30, 1e-3, None]
    seeds = [0, 1, 2, 0, 7]
    # float64 has at most half as many numbers in two vectors.
    options = OPTIONS | {"dtype": dtype, "tolerance": 0.5, "width": 20 if dtype == "float32" else 9}
    with thread_limits.limited(threads):
        together = train_many(problem, seeds=seeds, learning_rates=rates, **options)
    for seed, rate, got in zip(seeds, rates, together, strict=True):
        same(got, fastdln.train(problem, seed=seed, learning_rate=rate, **options))
    assert together[2].status == "diverged"


# Mirrored (fewer inputs than outputs), a single layer, widths that differ, reduced, one input and
# output, weight decay; no steps at all; more networks than lanes, which are filled again as
# networks converge.
CASES = {
    "mirrored": ((2, 5), {"width": 7, "depth": 3, "init": "gaussian"}),
    "a layer": ((4, 3), {"depth": 1, "init": "gaussian"}),
    "widths": ((3, 3), {"width": [5, 1, 8], "init": "gaussian"}),
    "reduced": ((3, 2), {"width": 50, "depth": 4, "init": "orthogonal"}),
    "numbers": ((1, 1), {"width": 1, "depth": 3, "init": "gaussian"}),
    "decay": ((4, 3), {"width": 6, "depth": 3, "weight_decay": 0.5}),
    "momentum": ((4, 3), {"width": 6, "depth": 3, "momentum": 0.9, "nesterov": True}),
    "minibatches": ((2, 5), {"width": 6, "depth": 3, "batch_size": 2, "init": "gaussian"}),
    "both": ((4, 3), {"width": 9, "depth": 3, "batch_size": 4, "momentum": 0.5}),
    "no steps": ((4, 3), {"width": 6, "depth": 3, "steps": 0}),
    "anew": ((4, 3), {"width": 6, "depth": 2, "steps": 300, "tolerance": 0.3}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_all_kinds_of_networks_are_batched(case, dtype, monkeypatch, rng):
    monkeypatch.setattr(many, "batching_pays", lambda widths, dtype, count: True)
    (d_x, d_y), options = case
    problem = fastdln.Regression(rng.standard_normal((d_x, 9)), rng.standard_normal((d_y, 9)))
    options = {"steps": 20, "dtype": dtype, **options}
    rates = list(np.geomspace(1e-4, 1e-2, 37))
    together = train_many(problem, seeds=range(37), learning_rates=rates, **options)
    for seed, rate, got in zip(range(37), rates, together, strict=True):
        same(got, fastdln.train(problem, seed=seed, learning_rate=rate, **options))
    if options.get("tolerance"):
        assert len({got.steps_taken for got in together}) > 5


def test_networks_that_cannot_be_batched_are_trained_alone(problem, monkeypatch):
    monkeypatch.setattr(many, "batching_pays", lambda widths, dtype, count: True)
    for more in (
        {"width": 100},
        {"optimizer": "adam"},
        {"kernel": "zigzag"},
    ):
        options = OPTIONS | more
        (got,) = train_many(problem, seeds=[3], learning_rates=1e-3, **options)
        same(got, fastdln.train(problem, seed=3, learning_rate=1e-3, **options))


def test_the_callback_is_called_for_every_network_and_may_stop(problem, batching):
    seen = []

    def callback(step, loss):
        seen.append((step, loss))

    train_many(problem, seeds=range(3), callback=callback, **OPTIONS)
    assert sum(step == OPTIONS["steps"] for step, _ in seen) == 3

    def stop(step, loss):
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        train_many(problem, seeds=range(3), callback=stop, **OPTIONS)


@pytest.mark.skipif(os.name == "nt", reason="a signal to oneself ends the process there")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_stops_all_networks(problem, threads, batching):
    """They have far more steps than could be taken: the call ends because it was stopped."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    options = OPTIONS | {"steps": 10**7, "tolerance": 0}
    with thread_limits.limited(threads), pytest.raises(KeyboardInterrupt):
        train_many(problem, seeds=range(40), learning_rates=1e-9, **options)
    timer.join()


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
    with pytest.raises(TypeError, match=r"train_many\(\) got an unexpected"):
        train_many(problem, seeds=[1, 2], **OPTIONS, **{"with": 0})
    with pytest.raises(TypeError, match="seed must be"):
        train_many(problem, seeds=[1, 1.5], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"learning_rates": [1e-3, -1.0]}, ValueError, "greater than 0"),
        ({"learning_rates": [1e-3, "x"]}, TypeError, "learning_rates must be"),
        ({"learning_rates": {1e-3: 0, 1e-4: 1}}, TypeError, "one for each network"),
        ({"seeds": 5}, TypeError, "seeds must be a sequence"),
        ({"seeds": [], "width": -1}, ValueError, "at least 1"),
        ({"kernel": "zigzag", "momentum": 0.5}, ValueError, "plain full-batch"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(problem, options, error, match):
    def never(step, loss):
        raise AssertionError("a network was trained")

    arguments = {"seeds": (0, 1), "width": 8, "depth": 3, "steps": 5, "callback": never, **options}
    with pytest.raises(error, match=match):
        train_many(problem, **arguments)


def test_seeds_and_rates_may_be_any_iterable_and_number(problem):
    options = {"width": 8, "depth": 3, "steps": 5}
    expected = train_many(problem, seeds=[0, 1], learning_rates=[1e-3, 1e-3], **options)
    for seeds, rates in (
        ((s for s in (0, 1)), (r for r in (1e-3, 1e-3))),
        (np.arange(2), np.float64(1e-3)),
    ):
        got = train_many(problem, seeds=seeds, learning_rates=rates, **options)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a.loss, b.loss)
