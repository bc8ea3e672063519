"""A resumed run has the results of an uninterrupted one."""

import pickle

import numpy as np
import pytest

import fastdln

OPTIMIZERS = {
    "gradient descent": {"init": "gaussian", "kernel": "two-pass"},
    "zigzag": {"init": "gaussian", "kernel": "zigzag"},
    "reduced, decay": {"init": "orthogonal", "weight_decay": 0.1},
    "momentum": {"init": "gaussian", "momentum": 0.6, "weight_decay": 0.1},
    "nesterov, reduced": {
        "init": "orthogonal",
        "momentum": 0.6,
        "nesterov": True,
        "weight_decay": 0.1,
    },
    "adam": {"init": "gaussian", "optimizer": "adam"},
    "minibatches": {"init": "gaussian", "batch_size": 4, "momentum": 0.3},
    "adam, minibatches": {"init": "gaussian", "batch_size": 4, "optimizer": "adam"},
}


def problem(rng, shape=(6, 3)):
    return fastdln.Regression(*(rng.standard_normal((rows, 11)) for rows in shape))


def same(resumed, whole, rtol):
    assert (resumed.status, resumed.steps_taken) == (whole.status, whole.steps_taken)
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=rtol)
    for a, b in zip(resumed.network.weights, whole.network.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * (1 + np.abs(b).max()))


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)], ids=["", "mirrored"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_goes_on_where_it_ended(optimizer, shape, device, rng):
    options = {"width": 9, "depth": 4, "learning_rate": 0.01, "device": device} | OPTIMIZERS[
        optimizer
    ]
    if device == "gpu" and optimizer == "zigzag" and shape == (3, 6):
        options["kernel"] = "auto"
    given = problem(rng, shape)
    whole = fastdln.train(given, steps=12, **options)
    # In three parts, the first of which may come from a file.
    part = fastdln.train(given, steps=3, resumable=True, **options)
    before = part.loss.copy()
    again = fastdln.resume(pickle.loads(pickle.dumps(part)), steps=5)
    seen = []
    end = fastdln.resume(again, steps=4, callback=lambda step, loss: seen.append(step))
    # The same operations in the same order, but for zigzag, whose passes start anew.
    exact = device == "cpu" and optimizer != "zigzag"
    same(end, whole, 0 if exact else 1e-10)
    assert seen[-1] == 12
    np.testing.assert_array_equal(part.loss, before)
    assert fastdln.resume(part, steps=0).steps_taken == 3
    assert again.seconds >= part.seconds


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}], ids=str)
def test_runs_of_many_go_on(options, device, rng):
    given = problem(rng)
    common = {"width": 9, "depth": 3, "init": "gaussian", "device": device} | options
    parts = fastdln.train_many(given, seeds=[0, 1], steps=4, resumable=True, **common)
    for part, whole in zip(
        parts, fastdln.train_many(given, seeds=[0, 1], steps=9, **common), strict=True
    ):
        same(fastdln.resume(part, steps=5), whole, 1e-10)


def test_a_network_of_ones_own_goes_on(rng):
    net = fastdln.initialize(6, 3, width=20, depth=4, seed=3)
    given = problem(rng)
    whole = fastdln.train(given, network=net, steps=9)
    part = fastdln.train(given, network=net, steps=4, resumable=True)
    same(fastdln.resume(part, steps=5), whole, 0)


def test_convergence_is_still_relative_to_the_first_loss(device, rng):
    given = problem(rng)
    common = {"width": 9, "depth": 3, "tolerance": 0.5, "device": device}
    whole = fastdln.train(given, steps=500, **common)
    part = fastdln.train(given, steps=whole.steps_taken // 2, resumable=True, **common)
    assert whole.status == "converged"
    end = fastdln.resume(part, steps=500)
    same(end, whole, 1e-10)
    assert fastdln.resume(end, steps=5).steps_taken == end.steps_taken


@pytest.mark.parametrize("kernel", ["two-pass", "zigzag"])
def test_a_loss_of_nothing_is_the_end(kernel, device):
    given = fastdln.Regression([[1.0]], [[0.0]])
    net = fastdln.Network([[[10.0]]])
    common = {"network": net, "learning_rate": 1.0, "kernel": kernel, "device": device}
    part = fastdln.train(given, steps=3, resumable=True, method="dense", **common)
    assert (part.status, list(part.loss)) == ("converged", [50, 0])
    assert fastdln.resume(part, steps=5) is part


def test_a_state_keeps_no_more_than_it_needs(rng):
    given = problem(rng)
    part = fastdln.train(
        given, width=40, depth=6, init="gaussian", optimizer="adam", steps=2, resumable=True
    )
    size = len(pickle.dumps(part))
    for _ in range(3):
        part = fastdln.resume(part, steps=2)
    assert len(pickle.dumps(part)) < size + 500


def test_layers_are_for_reading_only(device, rng):
    for init in ("gaussian", "orthogonal"):
        run = fastdln.train(problem(rng), width=5, depth=3, init=init, steps=2, device=device)
        for w in run.network.weights:
            with pytest.raises(ValueError, match="read-only"):
                w[0, 0] = 1


def test_what_cannot_go_on_is_refused(rng):
    given = problem(rng)
    common = {"width": 5, "depth": 2, "steps": 3}
    part = fastdln.train(given, resumable=True, **common)
    with pytest.raises(ValueError, match="train with resumable=True"):
        fastdln.resume(fastdln.train(given, **common), steps=3)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        fastdln.resume(part, steps=-1)
    with pytest.raises(TypeError, match="result must be a TrainResult, not int"):
        fastdln.resume(3, steps=1)
    wild = fastdln.train(given, resumable=True, learning_rate=1e30, **common)
    with pytest.raises(ValueError, match="diverged"):
        fastdln.resume(wild, steps=1)
