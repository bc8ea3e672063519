"""Training against the naive loop at every step, and every way in which a run can end."""

import gc
import pickle
import tracemalloc

import naive
import numpy as np
import pytest
from workloads import FixedPacing

import fastdln
from fastdln import theory
from fastdln.backends.cpu import trainer
from fastdln.backends.cpu.cost_model import ALONE, Team
from fastdln.kernels.cpu import regression_loop, zigzag

# d_x, d_y, n, rank, hidden widths: X rank-deficient, n > d_x, d_y > d, d_y = 1, depth 1 and 2,
# width < d_y, width 1, primes, rectangular hidden layers.
CASES = {
    "few samples": (12, 3, 5, None, (17, 17, 17)),
    "rank-deficient": (7, 3, 9, 2, (11, 11)),
    "many samples": (4, 2, 50, None, (8, 8, 8, 8)),
    "more outputs than inputs": (3, 11, 20, None, (16, 16, 16)),
    "one output": (6, 1, 8, None, (9, 9)),
    "one input": (1, 4, 6, None, (5, 5)),
    "depth 1": (5, 4, 10, None, ()),
    "depth 2": (5, 4, 10, None, (7,)),
    "narrower than the outputs": (6, 9, 12, None, (4, 4, 4)),
    "narrower than the inputs": (20, 3, 30, None, (6, 6)),
    "width 1": (3, 2, 5, None, (1, 1)),
    "rectangular": (6, 3, 8, None, (5, 19, 33, 2)),
}
STEPS = 25


def make_problem(d_x, d_y, n, rank, rng):
    X = rng.standard_normal((d_x, n))
    if rank is not None:
        X = rng.standard_normal((d_x, rank)) @ rng.standard_normal((rank, n))
    return fastdln.Regression(X, rng.standard_normal((d_y, n)))


def stable_rate(problem, depth):
    return 0.2 * theory.learning_rate(problem, depth)


@pytest.fixture(params=CASES)
def case(request, rng):
    *shape, widths = CASES[request.param]
    return make_problem(*shape, rng), widths


@pytest.mark.parametrize("method", ["dense", "auto"])
@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "identity"])
def test_every_step_is_the_naive_loop(case, init, method, dtype, rtol, device):
    problem, widths = case
    rate = stable_rate(problem, len(widths) + 1)
    arguments = {"width": widths, "init": init, "seed": 3, "dtype": dtype}
    network = fastdln.initialize(problem.d_x, problem.d_y, **arguments)
    losses, weights = naive.train(network.weights, problem.X, problem.Y, rate, STEPS)
    r = fastdln.train(
        problem, **arguments, learning_rate=rate, steps=STEPS, method=method, device=device
    )
    assert (r.status, r.steps_taken) == ("completed", STEPS)
    np.testing.assert_allclose(r.loss, losses, rtol=rtol)
    assert len(r.network.weights) == len(weights)
    for got, expected in zip(r.network.weights, weights, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=20 * rtol, rtol=0)


def test_a_given_network_is_left_as_it_is_and_trains_like_the_drawn_one(case):
    problem, widths = case
    network = fastdln.initialize(problem.d_x, problem.d_y, width=widths, init="gaussian", seed=1)
    before = [w.copy() for w in network.weights]
    rate = stable_rate(problem, network.depth)
    given = fastdln.train(problem, network=network, steps=9, learning_rate=rate)
    drawn = fastdln.train(
        problem, width=widths, init="gaussian", seed=1, steps=9, learning_rate=rate
    )
    np.testing.assert_array_equal(given.loss, drawn.loss)
    for got, expected in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_read_only_and_strided_networks_are_accepted(rng, device):
    problem = make_problem(4, 3, 6, None, rng)
    weights = [rng.standard_normal((10, 8))[::2, ::2], rng.standard_normal((5, 3)).T]
    for w in weights:
        w.flags.writeable = False
    r = fastdln.train(
        problem, network=fastdln.Network(weights), steps=3, learning_rate=1e-3, device=device
    )
    losses, _ = naive.train(weights, problem.X, problem.Y, 1e-3, 3)
    np.testing.assert_allclose(r.loss, losses, rtol=1e-12)


@pytest.fixture
def in_team(monkeypatch):
    """Return a function that trains with a team of a size, whatever the cost model says."""
    choose = trainer.choose

    def train(size, sharing="layers", **options):
        team = Team(size, sharing) if size > 1 else ALONE

        def chosen(*arguments, **keywords):
            return choose(*arguments, **keywords)._replace(teams={ALONE: 1.0, team: 1.0})

        def pacing(*arguments, **keywords):
            return FixedPacing(team)

        monkeypatch.setattr(trainer, "choose", chosen)
        monkeypatch.setattr(trainer, "TeamPacing", pacing)
        return fastdln.train(fastdln.paper_regression(), **options)

    return train


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init": "orthogonal"},
        {"weight_decay": 0.1},
        {"kernel": "zigzag"},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
        {"optimizer": "adam"},
        {"batch_size": 5},
        {"batch_size": 5, "optimizer": "adam"},
        {"sharing": "segments"},
    ],
    ids=str,
)
def test_the_bits_do_not_depend_on_the_team(options, dtype, in_team):
    common = {"width": 53, "depth": 6, "init": "gaussian", "steps": 9, "learning_rate": 1e-4}
    common |= {"method": "dense", "dtype": dtype, **options}
    alone, *others = (in_team(size, **common) for size in (1, 2, 3, 5))
    assert alone.steps_taken == 9
    for run in others:
        np.testing.assert_array_equal(run.loss, alone.loss)
        for a, b in zip(run.network.weights, alone.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=["", "mirrored"])
def test_zigzag_trains_as_two_pass_does(steps, shape, dtype, rng):
    """Weights too: a run must not end with a deferred update."""
    problem = fastdln.Regression(
        rng.standard_normal((shape[0], 20)), rng.standard_normal((shape[1], 20))
    )
    runs = [
        fastdln.train(
            problem,
            width=30,
            depth=7,
            init="gaussian",
            steps=steps,
            learning_rate=1e-3,
            dtype=dtype,
            kernel=kernel,
        )
        for kernel in ("two-pass", "zigzag")
    ]
    rtol = 20 * np.finfo(dtype).eps  # a few roundings: at most 2 were seen
    np.testing.assert_allclose(runs[1].loss, runs[0].loss, rtol=rtol)
    for a, b in zip(runs[1].network.weights, runs[0].network.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol)
    assert not np.allclose(
        runs[0].network.weights[1],
        fastdln.initialize(*shape, width=30, depth=7, init="gaussian").weights[1],
        rtol=0,
        atol=rtol,
    )


def test_kernels_are_compiled_once_for_all_shapes(rng):
    """One signature a dtype: width, depth, d > d_y, d < d_y, and a single output or input."""
    compiled = set()
    for d_x, d_y, width, depth in ((6, 4, 8, 3), (4, 6, 40, 5), (6, 1, 9, 2), (1, 3, 70, 4)):
        problem = fastdln.Regression(rng.standard_normal((d_x, 9)), rng.standard_normal((d_y, 9)))
        for kernel in ("two-pass", "zigzag"):
            fastdln.train(
                problem, width=width, depth=depth, init="gaussian", steps=3, kernel=kernel
            )
        compiled.add(
            (len(regression_loop.descend.signatures), len(zigzag.descend_zigzag.signatures))
        )
    assert len(compiled) == 1


def test_the_loss_holds_the_constant_of_the_data_reduction(rng, device):
    problem = make_problem(3, 2, 40, None, rng)
    assert problem.reduced.constant > 1
    r = fastdln.train(problem, width=6, depth=3, steps=10, learning_rate=1e-3, device=device)
    assert r.loss.dtype == np.float64
    trained = problem.loss(r.network.end_to_end())
    np.testing.assert_allclose(r.loss[-1], trained, rtol=1e-12)


def test_theorem_4_1_bounds_a_wide_orthogonal_run_at_every_step():
    problem = fastdln.paper_regression(seed=2)
    depth, steps = 30, 300
    r = fastdln.train(problem, width=1000, depth=depth, steps=steps)
    bound = theory.loss_bound(problem, depth, None, steps)
    best = theory.optimal_loss(problem)
    excess = (r.loss - best) / (r.loss[0] - best)
    # 1e-13: rounding of the loss itself, relative to the first loss.
    assert (excess <= bound[: len(excess)] + 1e-13).all()
    assert excess[-1] < 1e-3


def test_a_result_keeps_its_losses_and_weights_and_no_memory_for_all_steps():
    problem = fastdln.Regression(np.eye(4), np.ones((40, 4)))
    arguments = {"width": 8, "depth": 400, "init": "gaussian", "learning_rate": 1e3}
    fastdln.train(problem, **arguments, steps=1)  # compiles, which keeps memory of its own
    gc.collect()
    tracemalloc.start()
    r = fastdln.train(problem, **arguments, steps=10**6)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert r.status == "diverged"
    # Losses of a million steps would be 8 MB; the weights are 0.2 MB.
    assert peak > 8 * 10**6
    assert kept < r.loss.nbytes + 10**6


def test_zero_steps_evaluate_the_loss_once(device):
    problem = fastdln.paper_regression()
    r = fastdln.train(problem, width=20, depth=3, steps=0, device=device)
    assert (r.loss.shape, r.steps_taken, r.status) == ((1,), 0, "completed")
    network = fastdln.initialize(1024, 10, width=20, depth=3)
    np.testing.assert_allclose(r.loss[0], problem.loss(network.end_to_end()), rtol=1e-12)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_a_diverged_run_is_a_result(init, dtype, device):
    problem = fastdln.paper_regression()
    r = fastdln.train(
        problem,
        device=device,
        width=30,
        depth=4,
        init=init,
        steps=500,
        learning_rate=100.0,
        dtype=dtype,
    )
    assert r.status == "diverged"
    assert r.loss.shape == (r.steps_taken + 1,)
    assert np.isfinite(r.loss[:-1]).all()
    assert not np.isfinite(r.loss[-1])
    assert 0 < r.steps_taken < 500


def test_a_run_converges_at_the_floor_of_its_dtype(dtype):
    problem = fastdln.paper_regression()
    r = fastdln.train(problem, width=64, depth=3, steps=5000, dtype=dtype)
    floor = (10 * np.finfo(dtype).eps) ** 2
    assert r.status == "converged"
    assert r.relative_loss[-1] <= floor < r.relative_loss[-2]
    assert r.steps_taken < 5000


def test_tolerance_stops_a_run_early():
    problem = fastdln.paper_regression()
    r = fastdln.train(problem, width=64, depth=3, steps=5000, tolerance=1e-3)
    assert r.status == "converged"
    assert r.relative_loss[-1] <= 1e-3 < r.relative_loss[-2]


def test_a_loss_that_starts_at_zero_is_relative_zero():
    problem = fastdln.Regression([[1.0]], [[0.0]])
    r = fastdln.train(problem, network=fastdln.Network([[[0.0]]]), steps=5, learning_rate=0.1)
    assert r.status == "converged"
    np.testing.assert_array_equal(r.relative_loss, [0.0])


def test_the_callback_sees_the_loss_and_may_stop_the_run():
    seen = []

    def stop(step, loss):
        seen.append((step, loss))
        raise KeyboardInterrupt

    problem = fastdln.paper_regression()
    with pytest.raises(KeyboardInterrupt):
        fastdln.train(
            problem, width=64, depth=9, init="gaussian", steps=10**6, callback=stop, tolerance=0
        )
    assert len(seen) == 1


def test_a_deep_network_neither_under_nor_overflows():
    problem = fastdln.paper_regression()
    r = fastdln.train(problem, width=8, depth=100_000, init="orthogonal", steps=2, dtype="float32")
    assert np.isfinite(r.loss).all()
    g = fastdln.initialize(3, 2, width=4, depth=100_000, init="gaussian")
    assert all(np.isfinite(w).all() for w in g.weights)


BAD = [
    ({"width": 0}, ValueError, "width must be at least 1, not 0"),
    ({"width": -3}, ValueError, "width must be at least 1, not -3"),
    ({"width": 2.5}, TypeError, "width"),
    ({"width": None}, ValueError, "width must be given"),
    ({"width": [4, 0]}, ValueError, r"width\[1\] must be at least 1"),
    ({"width": [4, 4, 4]}, ValueError, "makes depth 4, but depth is 3"),
    ({"depth": 0}, ValueError, "depth must be at least 1, not 0"),
    ({"depth": None}, ValueError, "depth must be given"),
    ({"steps": -1}, ValueError, "steps must be at least 0, not -1"),
    ({"steps": 1.5}, TypeError, "steps"),
    ({"learning_rate": 0}, ValueError, "learning_rate must be a finite number greater than 0"),
    ({"learning_rate": -1e-3}, ValueError, "learning_rate"),
    ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
    ({"learning_rate": "fast"}, TypeError, "learning_rate"),
    ({"init": "kaiming"}, ValueError, "init must be one of 'gaussian', .* not 'kaiming'"),
    ({"dtype": "float16"}, TypeError, "dtype must be 'float32' or 'float64', not 'float16'"),
    ({"device": "tpu"}, ValueError, "device must be"),
    ({"method": "fast"}, ValueError, "method must be one of"),
    ({"tolerance": 1.0}, ValueError, "tolerance must be less than 1"),
    ({"tolerance": -1.0}, ValueError, "tolerance"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": 0.5}, TypeError, "seed"),
    ({"gain": 0}, ValueError, "gain"),
    ({"width": 10**7, "init": "gaussian"}, MemoryError, r"needs [\d,]+ bytes .* available"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_gets_one_clear_sentence(change, error, message):
    arguments = {"width": 8, "depth": 3, "steps": 1} | change
    with pytest.raises(error, match=message):
        fastdln.train(fastdln.paper_regression(), **arguments)


def test_a_network_must_fit_the_problem():
    problem = fastdln.paper_regression()
    network = fastdln.initialize(5, 10, width=4, depth=2)
    with pytest.raises(ValueError, match=r"maps 5 inputs to 10 outputs, .* d_x=1024 and d_y=10"):
        fastdln.train(problem, network=network)
    with pytest.raises(ValueError, match="width, depth, init and gain must be left out"):
        fastdln.train(problem, network=network, width=3)
    with pytest.raises(TypeError, match=r"problem must have d_x, d_y, .* a str does not"):
        fastdln.train("the paper's", width=3, depth=2)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "balanced", "zero_asymmetric"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_results_can_be_sent_to_another_process(init, asked_before, rng):
    problem = fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))
    run = fastdln.train(
        problem, width=12, depth=4, init=init, steps=5, learning_rate=1e-3, weight_decay=0.1
    )
    if asked_before:
        run.network.weights[2]
    there = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(there.loss, run.loss)
    for a, b in zip(there.network.weights, run.network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_of_given_and_of_many_networks_can_be_sent_too(rng):
    problem = fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))
    network = fastdln.initialize(6, 3, width=30, depth=3, init="orthogonal")
    runs = [fastdln.train(problem, network=network, steps=3)]
    runs += fastdln.train_many(problem, seeds=range(4), width=8, depth=3, steps=3)
    for run in runs:
        there = pickle.loads(pickle.dumps(run))
        for a, b in zip(there.network.weights, run.network.weights, strict=True):
            np.testing.assert_array_equal(a, b)
