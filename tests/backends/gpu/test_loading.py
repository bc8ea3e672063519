"""Workloads as kernel arguments, and layers in the memory of the GPU (here, of the shim)."""

import gpu_cases as cases
import naive
import numpy as np
import pytest
from cuda_cases import ShimLauncher

import fastdln
from fastdln.backends.gpu import loading
from fastdln.backends.gpu.haar import drawing_bytes
from fastdln.objectives.base import reduced_objective
from fastdln.optim.optimizers import Optimizer


@pytest.fixture
def objective(rng):
    return fastdln.Regression(rng.standard_normal((5, 9)), rng.standard_normal((3, 9))).reduced


def test_constants_of_motion_are_those_of_a_naive_step(objective, rng):
    """One step from the velocity 0, on the paper's weights ``W = √rows Ŵ``."""
    optimizer = Optimizer(momentum=0.5, weight_decay=0.1)
    work = cases.workload((5, 7, 3), objective, rng, 1, optimizer=optimizer)
    motion = loading.motion_of(work)
    assert motion.momentum == 0.5
    assert motion.decay_factor == 1 - 0.02 * 0.1
    _, expected = cases.expected(work)
    weights = list(work.draw())
    G = objective.evaluate(naive.end_to_end(weights))[1]
    gradients = naive.backpropagation(weights, G)
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        moved = w - motion.step_sizes[i] * (g + motion.weight_decays[i] * w)
        np.testing.assert_allclose(moved, expected[i], rtol=1e-12)


def test_a_problem_has_the_loss_of_its_objective(objective, rng):
    problem = loading.regression_problem(objective)
    M = rng.standard_normal((3, 5))
    loss, gradient = objective.evaluate(M)
    residual = M * problem.scale - problem.target
    assert problem.constant + 0.5 * np.sum(residual**2) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(residual * problem.scale, gradient, rtol=1e-12)
    assert problem.scale.shape == problem.target.shape
    assert problem.scale.flags.c_contiguous


def test_samples_are_taken_where_the_kernel_forms_the_gradient(objective, rng):
    full = cases.workload((5, 7, 3), objective, rng, 1)
    some = cases.workload((5, 7, 3), objective, rng, 1, schedule=cases.Minibatches())
    assert loading.minibatch_samples(objective, []) is None
    assert loading.minibatch_samples(objective, [full]) is None
    samples = loading.minibatch_samples(objective, [some, some])
    assert samples.size == cases.Minibatches.size
    X, Y = objective.samples
    np.testing.assert_array_equal(samples.rows, np.vstack([X, Y]).T)
    other = fastdln.Logistic(rng.standard_normal((5, 9)), rng.integers(0, 3, 9))
    assert loading.minibatch_samples(reduced_objective(other), [some]) is None


class Drawn:
    """A layer that is drawn where it is asked for."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def rows(self, begin, end):
        return self.array[begin:end]

    def write_to(self, out):
        raise AssertionError("the memory of a GPU cannot be written to")


def test_layers_are_written_to_their_places(dtype, rng):
    layers = cases.layers((5, 7, 1, 3), rng)
    given = [layers[0], Drawn(layers[1]), np.asfortranarray(layers[2])]
    places = [np.full(w.shape[::-1], np.nan, dtype).T for w in layers]
    loading.load_layers(ShimLauncher(dtype), iter(given), places.__getitem__)
    for place, w in zip(places, layers, strict=True):
        np.testing.assert_array_equal(place, w.astype(dtype))


def test_memory_is_asked_for_before_anything_is_drawn(dtype):
    widths, needed = (5, 60, 60, 3), 1000
    free = needed + drawing_bytes(widths, np.dtype(dtype))
    loading.require_memory(ShimLauncher(dtype, free=free), widths, needed)
    message = rf"a network of depth 3 and width 60 on .* needs {free:,} bytes .* but {free - 1:,}"
    with pytest.raises(MemoryError, match=message):
        loading.require_memory(ShimLauncher(dtype, free=free - 1), widths, needed)


def test_a_failed_allocation_names_what_is_left():
    error = loading.allocation_failed(ShimLauncher("float32", free=4096), (5, 3))
    assert isinstance(error, MemoryError)
    assert "depth 1 and width 0" in str(error)
    assert "4,096 bytes (4.0 KiB) left in fragments" in str(error)
