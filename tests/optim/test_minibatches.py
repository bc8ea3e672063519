"""The seeded schedule of minibatches."""

import naive
import numpy as np
import pytest
from reduction_cases import STEPS, make_problem, stable

import fastdln
from fastdln.optim.minibatches import Minibatches, minibatches
from fastdln.rng import seed_key


@pytest.mark.parametrize("method", ["dense", "reduced"])
def test_minibatches_are_the_seeded_schedule(method, rng, device):
    problem = make_problem(6, 3, 20, rng)
    network = fastdln.initialize(6, 3, width=15, depth=4, seed=2)
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
    problem = make_problem(3, 2, 12, rng)
    batch = minibatches(problem, 4, key=5)
    for epoch in range(3):
        seen = np.concatenate([batch(3 * epoch + i) for i in range(3)])
        assert sorted(seen) == list(range(12))
    assert not np.array_equal(batch(0), batch(3))


def test_a_remainder_of_samples_waits_for_another_epoch():
    """Seven samples in batches of three: two steps an epoch, and one sample left out of each."""
    batch = Minibatches(7, 3, key=1)
    for epoch in range(4):
        seen = np.concatenate([batch(2 * epoch), batch(2 * epoch + 1)])
        assert len(set(seen)) == 6


def test_a_schedule_is_the_same_in_any_order_and_after_any_start():
    batch = Minibatches(10, 4, key=3)
    forwards = [batch(step) for step in range(9)]
    backwards = [batch(step) for step in reversed(range(9))][::-1]
    later = [batch.after(2).after(3)(step) for step in range(4)]
    np.testing.assert_array_equal(forwards, backwards)
    np.testing.assert_array_equal(forwards[5:], later)
    assert not np.array_equal(forwards, [Minibatches(10, 4, key=4)(step) for step in range(9)])


def test_the_full_batch_has_no_schedule(rng):
    assert minibatches(make_problem(3, 2, 12, rng), None, key=5) is None


@pytest.mark.parametrize(
    ("size", "message"),
    [(17, "batch_size must be at most the 16 samples, not 17"), (0, "batch_size must be at least")],
)
def test_bad_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        fastdln.train(fastdln.paper_regression(), width=8, depth=3, steps=1, batch_size=size)


@pytest.mark.parametrize("missing", ["batch_gradient", "n"])
def test_a_problem_without_samples_has_no_minibatches(missing):
    members = {"batch_gradient": None, "n": 9}
    del members[missing]
    with pytest.raises(TypeError, match=f"a Own has no {missing}, so batch_size must be left out"):
        minibatches(type("Own", (), members)(), 2, key=0)


@pytest.mark.parametrize(("n", "size"), [(16, 8), (7, 3), (5, 5), (3000, 7)])
def test_several_steps_are_those_one_by_one(n, size):
    schedule = Minibatches(n, size, key=4, first_step=3)
    for step in (0, 5, 150):
        expected = [schedule(step + i) for i in range(11)]
        np.testing.assert_array_equal(schedule.several(step, 11), expected)
