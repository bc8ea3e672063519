"""The CPU trainer against naive training, and its view of every step."""

import logging

import naive
import numpy as np
import pytest
from conftest import RTOL
from workloads import CASES, OBJECTIVES, expected, make_workload, same, trained

from fastdln.backends.cpu.trainer import CpuTrainer
from fastdln.optim.loop import Checkpoint

STEPS = 6


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("widths", [(7, 19, 33, 3), (3, 19, 33, 7)], ids=str)
def test_training_is_naive_training(widths, case, objective, dtype, rng):
    if case == "zigzag" and objective != "regression":
        pytest.skip("zigzag does regression only")
    workload = make_workload(widths, dtype, rng, case, objective, STEPS)
    losses, weights = expected(workload, STEPS)
    got, layers, _ = trained(CpuTrainer(workload))
    np.testing.assert_allclose(got, losses, rtol=RTOL[dtype])
    for layer, w in zip(layers, weights, strict=True):
        np.testing.assert_allclose(layer, w, rtol=0, atol=RTOL[dtype] * np.abs(w).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("widths", [(7, 19, 33, 3), (3, 19, 33, 7)], ids=str)
def test_a_view_shows_every_step_and_changes_no_bit(widths, case, dtype, rng):
    workload = make_workload(widths, dtype, rng, case, "regression", STEPS)
    unseen = trained(CpuTrainer(workload))
    with CpuTrainer(workload) as trainer:
        for step in range(STEPS + 1):
            trainer.advance(step)
            view = trainer.view()
            assert (view.step, view.loss) == (step, trainer.losses[step])
            check_view(view, workload, RTOL[dtype])
        seen = trainer.losses.copy(), *layers_and_state(trainer, workload)
    same(seen, unseen)


def check_view(view, workload, rtol):
    _, weights = expected(workload, view.step)
    _, G = workload.objective.evaluate(naive.end_to_end(weights))
    close(view.gradient, G, 10 * rtol)
    for index, w in enumerate(weights):
        close(view.layers[index], w, rtol)
        assert not view.layers[index].flags.writeable
    for index, gradient in enumerate(naive.backpropagation(weights, G)):
        close(view.layer_gradient(index), gradient, 10 * rtol)


def close(got, wanted, rtol):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=rtol * (1 + np.abs(wanted).max()))


def layers_and_state(trainer, workload):
    state, layer = trainer.optimizer_state(), trainer.trained_layers()
    return [np.array(layer(i)) for i in range(workload.depth)], state


@pytest.mark.parametrize("case", [case for case in CASES if case != "zigzag"])
def test_a_resumed_run_has_the_bits_of_one_run(case, dtype, rng):
    widths = (7, 19, 33, 3)
    workload = make_workload(widths, dtype, rng, case, "regression", STEPS)
    losses, layers, state = trained(CpuTrainer(workload))
    first = make_workload(widths, dtype, None, case, like=workload, steps=2)
    start, between, saved = trained(CpuTrainer(first))
    checkpoint = Checkpoint(2, saved, float(start[0]))
    rest = make_workload(
        widths, dtype, None, case, like=workload, steps=STEPS - 2, layers=between,
        checkpoint=checkpoint,
    )  # fmt: skip
    more, ended, last_state = trained(CpuTrainer(rest))
    same((np.append(start[:-1], more), ended, last_state), (losses, layers, state))


def test_a_run_ends_where_it_converges_or_diverges(rng):
    workload = make_workload((7, 19, 3), "float64", rng, steps=200, tolerance=0.9)
    with CpuTrainer(workload) as trainer:
        trainer.advance(0)
        assert (trainer.step, trainer.status, trainer.finished) == (0, "completed", False)
        while trainer.step < 200 and not trainer.finished:
            trainer.advance(200)
        assert trainer.status == "converged"
        step = trainer.step
        assert trainer.losses[step] <= 0.9 * trainer.losses[0] < trainer.losses[step - 1]
        trainer.advance(200)
        assert trainer.step == step
    workload = make_workload((7, 19, 3), "float64", rng, steps=200, learning_rate=1e9)
    with CpuTrainer(workload) as trainer:
        while trainer.step < 200 and not (trainer.step >= 0 and trainer.finished):
            trainer.advance(200)
        assert trainer.status == "diverged"


def test_the_choice_is_told(caplog, rng):
    with (
        caplog.at_level(logging.DEBUG, "fastdln"),
        CpuTrainer(make_workload((7, 19, 3), "float64", rng, "zigzag")) as trainer,
    ):
        assert trainer.kernel == "zigzag"
        assert "kernel='zigzag' was asked for" in trainer.reason
    assert trainer.reason in caplog.text


def test_a_kernel_that_cannot_train_a_workload_is_refused(rng):
    workload = make_workload((7, 19, 3), "float64", rng, "momentum", kernel="zigzag")
    with pytest.raises(ValueError, match="zigzag"):
        CpuTrainer(workload)


def test_buffers_are_freed_when_training_ends(rng):
    with CpuTrainer(make_workload((7, 19, 3), "float64", rng)) as trainer:
        trainer.advance(0)
        chain = trainer.trained_layers().__self__
    arrays = [value for value in vars(chain).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == chain.weights.nbytes
