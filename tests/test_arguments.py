"""Wrong arguments of the public functions are refused by name, before anything is computed."""

import numpy as np
import pytest

import fastdln
from fastdln import plot, theory
from fastdln.sweeps.fingerprint import digest
from fastdln.utils import memory


class Own:
    """½‖M − A‖², with whatever members a test gives it."""

    d_x, d_y, smoothness = 3, 2, 1.0

    def __init__(self, **members):
        self.A = np.ones((2, 3))
        vars(self).update(members)

    def loss(self, M):
        return 0.5 * float(np.sum((M - self.A) ** 2))

    def gradient(self, M):
        return M - self.A


def train(problem, **options):
    return fastdln.train(problem, **({"width": 4, "depth": 2, "steps": 2} | options))


@pytest.mark.parametrize(
    ("members", "options", "kind", "words"),
    [
        ({"gradient": lambda M: M[0]}, {}, ValueError, r"gradient of Own must return .* \(2, 3\)"),
        ({"gradient": lambda M: None}, {}, ValueError, r"not of \(\)"),
        ({"loss": lambda M: [1.0, 2.0]}, {}, TypeError, "loss must return one number, not a list"),
        ({"loss": lambda M: None}, {}, TypeError, "one number, not a NoneType"),
        ({"loss": lambda M: -1.0}, {}, ValueError, "a loss must be at least 0, but is -1"),
        ({"smoothness": 0}, {}, ValueError, "smoothness must be a finite number greater than 0"),
        ({"smoothness": np.nan}, {}, ValueError, "smoothness must be a finite number"),
        ({"batch_gradient": None}, {"batch_size": 1}, TypeError, "has no n, so batch_size"),
        (
            {"batch_gradient": lambda M, samples: 1.0, "n": 3},
            {"batch_size": 1},
            ValueError,
            "batch_gradient of Own must return",
        ),
    ],
)
def test_objectives_of_ones_own_are_checked(members, options, kind, words):
    with pytest.raises(kind, match=words):
        train(Own(**members), **options)


def test_problems_keep_data_of_their_own(rng):
    X, Y, b = rng.standard_normal((3, 5)), rng.standard_normal((2, 5)), rng.standard_normal(4)
    A = rng.standard_normal((4, 2, 3))
    labels = np.array([0, 1, 0, 1, 1])
    problems = [
        fastdln.Regression(X, Y),
        fastdln.Logistic(X, labels),
        fastdln.MatrixSensing(A, b),
        fastdln.MatrixCompletion((2, 3), [0, 1], [0, 2], b[:2]),
    ]
    before = [digest(p) for p in problems]
    for array in (X, Y, b, A):
        array *= 2
    labels[:] = 0
    assert [digest(p) for p in problems] == before
    with pytest.raises(ValueError, match="read-only"):
        problems[0].X[0, 0] = 1
    for p in problems:
        assert f"{type(p).__name__}(d_x=3" in repr(p)
        with pytest.raises(ValueError, match=r"M must have shape \(2, 3\), not \(3, 2\)"):
            p.loss(np.ones((3, 2)))
        with pytest.raises(ValueError, match=r"M must have shape"):
            p.gradient(np.ones((2, 1)))


def test_masks_are_refused(rng):
    X = np.ma.masked_greater(rng.standard_normal((3, 5)), 0)
    with pytest.raises(TypeError, match="X must be an array without a mask"):
        fastdln.Regression(X, np.ones((2, 5)))
    with pytest.raises(TypeError, match="A must be an array without a mask"):
        fastdln.MatrixSensing(X.reshape(5, 1, 3), np.ones(5))


@pytest.mark.parametrize(
    "options",
    [{"init": "gaussian"}, {"gain": 2.0}, {"width": 3}, {"depth": 2}],
    ids=str,
)
def test_a_given_network_is_not_drawn(options):
    net = fastdln.initialize(3, 2, width=4, depth=2)
    with pytest.raises(ValueError, match="must be left out where a network is given"):
        fastdln.train(Own(), network=net, **options)


def test_what_belongs_to_given_networks_is_refused_without_one():
    with pytest.raises(ValueError, match="rank_tolerance is for a given network"):
        train(Own(), rank_tolerance=0.1)
    for dtype in ("", 0, False):
        with pytest.raises(TypeError, match="dtype must be"):
            train(Own(), dtype=dtype)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: train(Own(), callback=3), TypeError, "callback must be a function, not 3"),
        (
            lambda: fastdln.train_many(Own(), seeds=[0], width=3, depth=2, callback="x"),
            TypeError,
            "callback must be a function",
        ),
        (lambda: theory.condition_number(Own()), TypeError, "must be a Regression, not a Own"),
        (lambda: theory.learning_rate(np.ones(3), 2), TypeError, "problem must have d_x, d_y"),
        (
            lambda: fastdln.chain.end_to_end(fastdln.initialize(3, 2, width=4, depth=2)),
            TypeError,
            "weights must be a sequence of layers, not Network",
        ),
        (
            lambda: fastdln.MatrixCompletion(3, [0], [0], [1.0]),
            ValueError,
            r"shape must be the pair \(d_y, d_x\), not 3",
        ),
        (
            lambda: fastdln.MatrixCompletion((3, 2, 1), [0], [0], [1.0]),
            ValueError,
            "shape must be the pair",
        ),
        (
            lambda: fastdln.HaarReflectors(4, 2, seed=0).form(np.empty((4, 2), "float32")),
            TypeError,
            "out must be an array of dtype float64, not float32",
        ),
        (
            lambda: fastdln.HaarReflectors(4, 2, seed=0).form(np.empty((2, 4))),
            ValueError,
            r"out must have shape \(4, 2\)",
        ),
        (lambda: plot.heatmaps(swept(), 5), TypeError, "steps must be a list"),
        (lambda: plot.heatmaps(swept(), [1.5]), TypeError, "every one of steps must be a whole"),
    ],
)
def test_mistakes_are_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def swept():
    return fastdln.sweep(
        fastdln.Regression(np.eye(3), np.ones((2, 3))), [3], [2], steps=2, progress=False
    )


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_data_whose_step_size_is_no_number_are_refused(scale, rng):
    problem = fastdln.Regression(scale * rng.standard_normal((3, 5)), rng.standard_normal((2, 5)))
    with pytest.raises(ValueError, match="smoothness must be a finite number greater than 0"):
        train(problem)


def test_networks_that_do_not_fit_in_memory_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"a network of depth 4 needs 20,320 bytes"):
        fastdln.initialize(10, 12, width=[30, 40, 20], depth=4)


def test_results_can_be_compared_and_kept_in_sets():
    a, b = train(Own()), train(Own())
    assert a == a
    assert a != b
    assert len({a, b}) == 2
