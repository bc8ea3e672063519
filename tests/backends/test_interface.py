"""Workloads and layers: what a backend is handed, as it is written to memory and described."""

import numpy as np
import pytest
from workloads import CASES, OBJECTIVES, make_workload

from fastdln.backends.interface import Trainer, formed, is_plain_regression, write_layer
from fastdln.optim.optimizers import Optimizer


class Counted:
    """A layer that is drawn where it is asked for: 0, 1, 2, ..."""

    def __init__(self, shape):
        self.shape = shape

    def rows(self, begin, end):
        return np.arange(begin * self.shape[1], end * self.shape[1]).reshape(-1, self.shape[1])

    def write_to(self, out):
        out[:] = self.rows(0, self.shape[0])


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2, 9)], ids=str)
@pytest.mark.parametrize("deferred", [False, True])
def test_layers_are_written_to_any_strides(shape, deferred, dtype):
    layer = Counted(shape) if deferred else Counted(shape).rows(0, shape[0])
    expected = np.arange(shape[0] * shape[1]).reshape(shape)
    memory = np.full((shape[1] + 2, 2 * shape[0]), -1, dtype)
    write_layer(layer, memory[1:-1, ::2].T)
    np.testing.assert_array_equal(memory[1:-1, ::2].T, expected)
    assert (memory == -1).sum() == memory.size - expected.size
    np.testing.assert_array_equal(formed(layer), expected)


def test_an_array_is_its_own_form(rng):
    layer = rng.standard_normal((3, 5))
    assert formed(layer) is layer


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", CASES)
def test_plain_is_full_batch_descent_on_a_regression(case, objective, rng):
    workload = make_workload((7, 5, 9, 3), "float64", rng, case, objective)
    plain = objective == "regression" and case in ("two-pass", "zigzag")
    assert workload.plain == plain
    minibatches = workload.schedule is not None
    assert is_plain_regression(workload.objective, workload.optimizer, minibatches) == plain
    assert workload.depth == 3


@pytest.mark.parametrize("adam", [False, True])
def test_rates_are_those_of_the_full_width(adam, rng):
    """η/rows for gradient descent and η/√rows for Adam, of the rows before reduction."""
    optimizer = Optimizer("adam" if adam else "gd", weight_decay=0.5)
    rows = np.array([100.0, 100.0, 3.0])
    workload = make_workload(
        (7, 5, 9, 3), "float64", rng, optimizer=optimizer, learning_rate=0.25, rows=rows
    )
    rates = workload.rates
    np.testing.assert_allclose(rates.step_sizes, 0.25 / rows ** (0.5 if adam else 1))
    np.testing.assert_allclose(rates.weight_decays, 0.5 * (1 if adam else rows))
    assert rates.decay_factor == 1 - 0.25 * 0.5


def test_both_trainers_have_all_members():
    from fastdln.backends.cpu.trainer import CpuTrainer
    from fastdln.backends.gpu.trainer import GpuTrainer

    members = {name for name in vars(Trainer) if not name.startswith("_")}
    assert members >= {"advance", "losses", "view", "trained_layers"}
    for trainer in (CpuTrainer, GpuTrainer):
        assert members <= set(dir(trainer))
