"""The zigzag kernel's body, run on the CPU, against naive training in float64."""

import naive
import numpy as np
import pytest
from cuda_cases import RTOL, Networks, shim_launch

from fastdln.kernels.cuda import zigzag as kernels
from fastdln.kernels.cuda.team import Team

# Depth 1 and 2, width 1, primes, just over a vector and a tile, q > d and d > q, as many outputs
# as a block's threads can have, networks of different shapes, and enough layers of one shape that
# blocks reuse the exchange without a reset.
SHAPES = [
    [(5, 3)],
    [(5, 7, 3)],
    [(5, 4, 4, 4, 3)],
    [(5, 17, 9, 3), (5, 6, 3)],
    [(2, 23, 1, 13, 9), (2, 9), (2, 8, 8, 8, 8, 8, 9)],
    [(5, *[22] * 12, 3)],
]
# Groups that divide outputs, terms of the sums, or both; more parts than there are tiles.
TEAMS = [
    Team(1, 12),
    Team(3, 7),
    Team(4, 7, 2),
    Team(3, 12, 3),
    Team(10, 6, 5),
    Team(2, 8, 1, 2),
    Team(3, 12, 3, 2),
    Team(4, 7, 2, 2),
]


@pytest.mark.parametrize("team", TEAMS, ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_trajectories_are_those_of_gradient_descent(shapes, team, dtype, rng):
    networks = Networks(shapes, dtype, rng, weight_decay=0.02)
    batch = networks.batch(np, team, steps=7)
    active = np.arange(len(shapes))
    # In several launches, which begin with down and with up passes.
    for goal in (0, 1, 4, 7):
        batch.advance(shim_launch(dtype), active, goal)
        assert (batch.steps_taken() == goal).all()
    networks.check(batch, 7)


def test_one_input_and_one_output(rng):
    networks = Networks([(1, 1), (1, 1, 1)], "float64", rng)
    batch = networks.batch(np, TEAMS[0], steps=3)
    batch.advance(shim_launch("float64"), np.arange(2), 3)
    networks.check(batch, 3)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("team", [*TEAMS[:3], *TEAMS[6:]], ids=str)
def test_momentum_and_weight_decay(team, nesterov, dtype, rng):
    networks = Networks([(5, 9, 4, 3), (5, 3), (5, 6, 3)], dtype, rng, 0.05, 0.8, nesterov)
    batch = networks.batch(np, team, steps=6)
    for goal in (3, 6):
        batch.advance(shim_launch(dtype), np.arange(3), goal)
    networks.check(batch, 6)


def sampled(networks, rng, n=11, size=9):
    """Return n samples, and three steps of indices for each network: over a chunk, repeated."""
    d, q = networks.packing.d, networks.packing.q
    samples = kernels.Samples(rng.standard_normal((n, d + q)), size)
    steps = [rng.integers(0, n, (3, size)) for _ in networks.weights]
    return samples, steps


@pytest.mark.parametrize("team", [TEAMS[0], TEAMS[1], *TEAMS[4:]], ids=str)
@pytest.mark.parametrize("shapes", SHAPES[2:], ids=str)
def test_minibatches(shapes, team, dtype, rng):
    networks = Networks(shapes, dtype, rng, 0.02, 0.5)
    some, steps = sampled(networks, rng)
    batch = networks.batch(np, team, steps=3, samples=some)
    active = np.arange(len(shapes))
    for goal in (0, 1, 3):
        taken = max(batch.steps_taken()[0], 0)
        parts = [indices[taken:goal] for indices in steps]
        batch.advance(shim_launch(dtype), active, goal, batches=parts)
    d = networks.packing.d
    for i, (weights, rate) in enumerate(zip(networks.weights, networks.rates, strict=True)):

        def gradient(M, step, i=i):
            X, Y = np.split(some.rows[steps[i][step]].T, [d])
            return (M @ X - Y) @ X.T * (11 / 9)

        whole = naive.SquaredLoss(networks.X[i], networks.Y[i])
        optimizer = naive.Descent(0.5, False, 0.02)
        losses, expected = naive.train_objective(weights, whole, rate, 3, optimizer, gradient)
        np.testing.assert_allclose(batch.recorded(i, 3), losses + 0.25, rtol=RTOL[dtype])
        for j, w in enumerate(expected):
            atol = RTOL[dtype] * (1 + np.abs(w).max())
            np.testing.assert_allclose(batch.layer(i, j), w, rtol=0, atol=atol)


def test_networks_stop_by_themselves(rng):
    networks = Networks([(5, 4, 3)] * 4, "float64", rng)
    networks.rates = [1e-3, 1e6, 1e-3, 1e-3]
    batch = networks.batch(np, Team(1, 8), steps=40, tolerance=0.9999)
    # Not listed: neither evaluated nor moved.
    batch.advance(shim_launch("float64"), np.array([1, 0, 3]), 40)
    taken = batch.steps_taken()
    assert taken[2] == -1
    calm, wild = batch.recorded(0, taken[0]), batch.recorded(1, taken[1])
    assert 0 < taken[0] < 40
    assert calm[-1] <= 0.9999 * calm[0]
    assert (calm[:-1] > 0.9999 * calm[0]).all()
    assert not np.isfinite(wild[-1])
    assert np.isfinite(wild[:-1]).all()
    before = batch.weights.copy()
    batch.advance(shim_launch("float64"), np.array([0, 1, 3]), 40)
    np.testing.assert_array_equal(before, batch.weights)
    np.testing.assert_array_equal(batch.steps_taken(), taken)


def test_a_spent_budget_ends_a_launch_after_a_step(rng):
    networks = Networks([(5, 4, 3)], "float64", rng)
    batch = networks.batch(np, Team(1, 8), steps=5)
    for step in range(5):
        batch.advance(shim_launch("float64"), np.array([0]), 5, seconds=0)
        assert batch.steps_taken() == [step + 1]


@pytest.mark.parametrize("team", [*TEAMS[:3], *TEAMS[6:]], ids=str)
def test_gradients_from_outside(team, rng):
    """Any objective: M comes out, a gradient goes in, one step is taken."""
    networks = Networks([(5, 6, 4, 3)], "float64", rng)
    batch = networks.batch(np, team, steps=3, external=True)
    weights, rate = networks.weights[0], networks.rates[0]
    rows = [w.shape[0] for w in weights]
    batch.advance(shim_launch("float64"), np.array([0]), 0)
    for step in range(3):
        np.testing.assert_allclose(batch.end_to_end(0), naive.end_to_end(weights), rtol=1e-12)
        G = rng.standard_normal((3, 5))
        gradients = naive.backpropagation(weights, G)
        weights = [w - rate / m * g for w, m, g in zip(weights, rows, gradients, strict=True)]
        batch.put_gradient(0, G)
        batch.advance(shim_launch("float64"), np.array([0]), step + 1)
    for i, w in enumerate(weights):
        np.testing.assert_allclose(batch.layer(0, i), w, rtol=1e-11, atol=1e-13)


def test_flagged_elements_are_rounded_without_bias(rng):
    """The phase bit is rounded as often up as down: M neither grows nor shrinks.

    Cut off, it makes M of 300 layers smaller by 2e-5; roundings of either sign leave 1e-8 (both
    measured, with this seed).
    """
    n, depth = 12, 300
    networks = Networks([(n,) * (depth + 1)], "float32", rng)
    frames = np.linalg.qr(rng.standard_normal((depth, n, n)))[0]
    networks.weights = [[w.astype("float32") for w in frames]]
    batch = networks.batch(np, Team(3, 4, 3), steps=1)
    batch.advance(shim_launch("float32"), np.array([0]), 0)
    exact = np.linalg.norm(naive.end_to_end(networks.weights[0]))
    assert abs(np.linalg.norm(batch.end_to_end(0)) / exact - 1) < 1e-6


def test_repeated_runs_have_the_same_bits(rng):
    networks = Networks([(5, 17, 9, 3), (5, 6, 3)], "float32", rng)
    runs = []
    for _ in range(2):
        batch = networks.batch(np, Team(2, 9), steps=5)
        batch.advance(shim_launch("float32"), np.arange(2), 5)
        runs.append(batch)
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("team", TEAMS[5:], ids=str)
def test_warp_groups_change_no_bit_and_leave_the_exchange_zero(team, momentum, dtype, rng):
    networks = Networks([(5, *[22] * 6, 3), (5, 9, 17, 3)], dtype, rng, 0.02, momentum)
    runs = []
    for warp_groups in (1, 2):
        batch = networks.batch(np, team._replace(warp_groups=warp_groups), steps=5)
        for goal in (0, 2, 5):
            batch.advance(shim_launch(dtype), np.arange(2), goal)
            assert not batch.exchange.any()
        runs.append(batch)
    np.testing.assert_array_equal(runs[0].weights, runs[1].weights)
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)


@pytest.mark.parametrize(
    ("momentum", "team"),
    [
        (0.0, Team(1, 5)),
        (0.5, Team(2, 4)),
        (0.0, Team(4, 4, 2)),
        # A part of the terms that ends inside a column of blocks, and columns without outputs.
        (0.0, Team(6, 3, 2)),
        (0.0, Team(8, 3, 2)),
        (0.0, Team(6, 4, 3)),
        (0.0, Team(2, 4, 1, 2)),
        (0.0, Team(3, 4, 3, 2)),
        (0.5, Team(4, 3, 2, 2)),
    ],
    ids=str,
)
def test_no_two_threads_race(momentum, team, rng):
    """ThreadSanitizer sees every barrier between blocks and between threads that is missing."""
    # More entries of M than parts of the loss: threads read what others wrote.
    shapes = [(9, 7, 11, 3, 7, 5), (9, 5), (9, *[10] * 7, 5)]
    networks = Networks(shapes, "float32", rng, 0.0, momentum)
    launch = shim_launch("float32", sanitize="thread")
    batch = networks.batch(np, team, steps=3)
    batch.advance(launch, np.arange(3), 3)
    networks.check(batch, 3)
    some, steps = sampled(networks, rng)
    sampling = networks.batch(np, team, steps=3, samples=some)
    sampling.advance(launch, np.arange(3), 3, batches=steps)
    outside = networks.batch(np, team, steps=2, external=True)
    for goal in (0, 1, 2):
        outside.advance(launch, np.arange(3), goal)


def test_padding_stays_zero(rng):
    networks = Networks([(5, 17, 9, 3)], "float32", rng)
    batch = networks.batch(np, Team(1, 12), steps=4)
    batch.advance(shim_launch("float32"), np.arange(1), 4)
    for i in range(3):
        batch.layer(0, i)[:] = 0
    assert not batch.weights.any()


def test_a_team_too_small_is_refused(rng):
    networks = Networks([(5, 30, 3)], "float64", rng)
    with pytest.raises(ValueError, match="cannot carry 15 vectors"):
        networks.batch(np, Team(1, 14), steps=1)


def test_tolerances_are_those_of_rounding():
    assert RTOL["float64"] < 1e-10 < RTOL["float32"] < 1e-3
