"""The exact reductions: one trajectory, whichever width it is computed at."""

import naive
import numpy as np
import pytest

import fastdln
from fastdln import theory
from fastdln.reduction.invariant_subspaces import invariant_subspaces
from fastdln.reduction.plan import plan, plan_network

STEPS = 40
# Rounding along a stable trajectory, while the relative loss is above 1e-12.
SAME = {"rtol": 1e-9, "atol": 0}

# d_x, d_y, n, width: wide; narrower than d + d_y, than d_x, than d_y; width 1.
SIZES = {
    "wide": (12, 3, 5, 31),
    "width < d + d_y": (6, 4, 9, 8),
    "width < d_x": (30, 2, 5, 17),
    "width < d_y": (4, 9, 12, 6),
    "width 1": (3, 2, 4, 1),
}
OPTIMIZERS = {
    "plain": {},
    "decay": {"weight_decay": 0.03},
    "Polyak": {"momentum": 0.7},
    "Nesterov": {"momentum": 0.6, "nesterov": True},
    "Polyak and decay": {"momentum": 0.5, "weight_decay": 0.02},
    "Nesterov and decay": {"momentum": 0.5, "nesterov": True, "weight_decay": 0.02},
}


def make_problem(d_x, d_y, n, rng):
    return fastdln.Regression(rng.standard_normal((d_x, n)), rng.standard_normal((d_y, n)))


def stable(problem, depth):
    return 0.1 * theory.learning_rate(problem, depth)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric"])
@pytest.mark.parametrize("size", SIZES)
def test_reduced_and_dense_are_one_trajectory(size, init, optimizer, rng, device):
    *shape, width = SIZES[size]
    problem = make_problem(*shape, rng)
    arguments = {"width": width, "depth": 5, "init": init, "seed": 7, "steps": STEPS}
    arguments |= {"learning_rate": stable(problem, 5), **OPTIMIZERS[optimizer]}
    dense = fastdln.train(problem, device=device, **arguments, method="dense")
    reduced = fastdln.train(problem, device=device, **arguments, method="reduced")
    assert (dense.method, reduced.method) == ("dense", "reduced")
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_the_naive_one(optimizer, dtype, rtol, rng, device):
    problem = make_problem(7, 3, 9, rng)
    network = fastdln.initialize(7, 3, width=(11, 6, 13), init="gaussian", dtype=dtype)
    rate = stable(problem, 4)
    oracle = naive.Descent(**OPTIMIZERS[optimizer])
    losses, weights = naive.train(network.weights, problem.X, problem.Y, rate, STEPS, oracle)
    common = {"network": network, "steps": STEPS, "learning_rate": rate}
    r = fastdln.train(problem, device=device, **common, **OPTIMIZERS[optimizer])
    np.testing.assert_allclose(r.loss, losses, rtol=rtol)
    for got, expected in zip(r.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=50 * rtol, rtol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_adam_is_the_naive_one(weight_decay, dtype, rng, device):
    problem = make_problem(7, 3, 9, rng)
    network = fastdln.initialize(7, 3, width=(11, 6), init="orthogonal", dtype=dtype)
    losses, weights = naive.train(
        network.weights, problem.X, problem.Y, 0.01, STEPS, naive.Adam(weight_decay)
    )
    r = fastdln.train(
        problem,
        device=device,
        network=network,
        steps=STEPS,
        learning_rate=0.01,
        optimizer="adam",
        weight_decay=weight_decay,
    )
    assert r.method == "dense"
    # Adam divides by the gradient's size: rounding of small gradients is not small in a step.
    rtol = {"float32": 5e-3, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(r.loss, losses, rtol=rtol)
    for got, expected in zip(r.network.weights, weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=rtol, rtol=0)


def test_adam_on_reduced_says_why():
    with pytest.raises(ValueError, match=r"not exact here: Adam's steps are taken entry by entry"):
        fastdln.train(
            fastdln.paper_regression(), width=30, depth=3, method="reduced", optimizer="adam"
        )


@pytest.mark.parametrize("method", ["dense", "reduced"])
def test_minibatches_are_the_seeded_schedule(method, rng, device):
    problem = make_problem(6, 3, 20, rng)
    network = fastdln.initialize(6, 3, width=15, depth=4, seed=2)
    from fastdln.optim.minibatches import minibatches
    from fastdln.rng import seed_key

    schedule = minibatches(problem, 7, seed_key(2))

    def batch(M, step):
        X, Y = problem.X[:, schedule(step)], problem.Y[:, schedule(step)]
        return (M @ X - Y) @ X.T * 20 / 7

    rate = stable(problem, 4)
    losses, _ = naive.train_objective(network.weights, problem, rate, STEPS, batch=batch)
    r = fastdln.train(
        problem,
        width=15,
        depth=4,
        seed=2,
        steps=STEPS,
        learning_rate=rate,
        batch_size=7,
        method=method,
        device=device,
    )
    np.testing.assert_allclose(r.loss, losses, rtol=1e-10)


def test_an_epoch_takes_every_sample_once(rng):
    from fastdln.optim.minibatches import minibatches

    problem = make_problem(3, 2, 12, rng)
    batch = minibatches(problem, 4, key=5)
    for epoch in range(3):
        seen = np.concatenate([batch(3 * epoch + i) for i in range(3)])
        assert sorted(seen) == list(range(12))
    assert not np.array_equal(batch(0), batch(3))


def test_balanced_networks_reduce_for_any_widths(rng):
    problem = make_problem(7, 3, 9, rng)
    arguments = {"width": (12, 5, 9), "init": "balanced", "steps": STEPS, "seed": 3}
    arguments |= {"learning_rate": stable(problem, 4), "weight_decay": 0.01}
    dense = fastdln.train(problem, **arguments, method="dense")
    reduced = fastdln.train(problem, **arguments, method="reduced")
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12, rtol=0)


def test_the_reduced_width_is_that_of_the_theory():
    problem = fastdln.paper_regression()
    for width, kept in [(5, 5), (26, 26), (27, 26), (10**6, 26)]:
        chosen = plan(problem, width=width, depth=4)
        assert chosen.method == "reduced"
        assert chosen.widths == (16, kept, kept, kept, 10)


def test_a_wide_reduced_run_needs_little_memory():
    """Width 20,000 and depth 400: one full layer alone would be 3.2 GB."""
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=20_000, depth=400)
    assert chosen.bytes < 2**28
    r = fastdln.train(problem, width=20_000, depth=400, steps=3)
    assert r.method == "reduced"
    assert np.isfinite(r.loss).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 4, 1]])
def test_layers_are_lifted_in_any_order(order):
    problem = fastdln.paper_regression()
    arguments = {"width": 40, "depth": 5, "steps": 5}
    dense = fastdln.train(problem, **arguments, method="dense").network
    lifted = fastdln.train(problem, **arguments).network
    for i in order:
        np.testing.assert_allclose(lifted.weights[i], dense.weights[i], atol=1e-12)
    np.testing.assert_allclose(lifted.weights[-1], dense.weights[4], atol=1e-12)
    assert [w.shape for w in lifted.weights[1:3]] == [(40, 40), (40, 40)]
    with pytest.raises(IndexError, match="layer 5 of a network of depth 5"):
        lifted.weights[5]


# Given networks: what is found, and that training inside it is exact.


def given_networks(rng):
    def haar(n):
        return fastdln.haar_orthogonal(n, seed=int(rng.integers(1000)))

    identity = [rng.standard_normal((20, 6)), np.eye(20), np.eye(20), rng.standard_normal((3, 20))]
    orthogonal = [identity[0], haar(20), haar(20), identity[-1]]
    scaled = [identity[0], 1.5 * haar(20), 0.3 * haar(20), identity[-1]]
    block = [np.eye(20, 6), np.zeros((20, 20)), np.eye(20), identity[-1]]
    block[1][:8, :8] = rng.standard_normal((8, 8)) / 3
    unequal = [np.eye(20, 6), 0.8 * haar(30)[:, :20], 1.1 * haar(30), rng.standard_normal((3, 30))]
    return {
        "identity": (identity, [9, 9, 9]),
        "orthogonal": (orthogonal, [9, 9, 9]),
        "scaled orthogonal": (scaled, [9, 9, 9]),
        "block": (block, [8, 11, 11]),
        "unequal widths": (unequal, [9, 12, 12]),
        "zero last layer": ([*identity[:-1], np.zeros((3, 20))], [6, 6, 6]),
    }


@pytest.mark.parametrize("optimizer", ["plain", "Nesterov and decay"])
@pytest.mark.parametrize("name", list(given_networks(np.random.default_rng(0))))
def test_invariant_subspaces_of_given_networks(name, optimizer, rng, device):
    weights, dimensions = given_networks(rng)[name]
    problem = make_problem(6, 3, 9, rng)
    network = fastdln.Network([0.5 * w for w in weights])
    bases = invariant_subspaces(network.weights, problem.reduced.basis, 1e-12, 0.95)
    assert [Q.shape[1] for Q in bases] == dimensions
    arguments = {"network": network, "steps": STEPS, "learning_rate": 1e-3, **OPTIMIZERS[optimizer]}
    dense = fastdln.train(problem, device=device, **arguments, method="dense")
    reduced = fastdln.train(problem, device=device, **arguments)
    assert reduced.method == "reduced"
    np.testing.assert_allclose(reduced.loss, dense.loss, **SAME)
    for got, expected in zip(reduced.network.weights, dense.network.weights, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-11, rtol=0)


def test_a_trained_network_still_reduces():
    problem = fastdln.paper_regression()
    first = fastdln.train(problem, width=50, depth=4, steps=5)
    network = fastdln.Network(list(first.network.weights))
    again = fastdln.train(problem, network=network, steps=5)
    assert again.method == "reduced"
    whole = fastdln.train(problem, width=50, depth=4, steps=10)
    np.testing.assert_allclose(again.loss, whole.loss[5:], rtol=1e-9)


def test_a_float32_network_reduces_at_its_own_tolerance():
    problem = fastdln.paper_regression()
    network = fastdln.initialize(1024, 10, width=60, depth=6, dtype="float32")
    reduced = fastdln.train(problem, network=network, steps=20)
    dense = fastdln.train(problem, network=network, steps=20, method="dense")
    assert reduced.method == "reduced"
    np.testing.assert_allclose(reduced.loss, dense.loss, rtol=2e-4)


@pytest.mark.parametrize("width", [40, (30, 40, 20)])
def test_a_gaussian_network_is_irreducible(width):
    problem = fastdln.paper_regression()
    network = fastdln.initialize(1024, 10, width=width, depth=4, init="gaussian")
    chosen, bases = plan_network(problem, network)
    assert (chosen.method, bases) == ("dense", [])
    assert "mixes more than" in chosen.reason
    with pytest.raises(ValueError, match="not exact here: the second layer alone mixes more than"):
        fastdln.train(problem, network=network, method="reduced")


BAD = [
    ({"init": "gaussian", "method": "reduced"}, ValueError, "hidden layers of init 'gaussian' mix"),
    ({"width": (8, 9), "method": "reduced"}, ValueError, r"hidden widths differ \(8 to 9\)"),
    ({"depth": 1, "method": "reduced"}, ValueError, "depth 1 has no hidden layer"),
    ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and less than 1, not 1.0"),
    ({"momentum": -0.1}, ValueError, "momentum"),
    ({"nesterov": True}, ValueError, "nesterov=True needs a momentum greater than 0"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay"),
    ({"optimizer": "lion"}, ValueError, "optimizer must be one of 'gd', 'adam', not 'lion'"),
    ({"optimizer": "adam", "momentum": 0.5}, ValueError, "has its own momentum"),
    ({"batch_size": 17}, ValueError, "batch_size must be at most the 16 samples, not 17"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"gain": 0}, ValueError, "gain"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input(change, error, message):
    arguments = {"width": 8, "depth": 3, "steps": 1} | change
    if np.ndim(arguments["width"]):
        del arguments["depth"]
    with pytest.raises(error, match=message):
        fastdln.train(fastdln.paper_regression(), **arguments)


@pytest.mark.parametrize("tolerance", [0, 1, -1e-3, float("nan")])
def test_rank_tolerance_out_of_range(tolerance):
    network = fastdln.initialize(1024, 10, width=8, depth=3)
    with pytest.raises(ValueError, match="rank_tolerance"):
        fastdln.train(fastdln.paper_regression(), network=network, rank_tolerance=tolerance)
