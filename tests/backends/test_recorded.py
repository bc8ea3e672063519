"""Recorded losses and the status that follows from them."""

import numpy as np
import pytest
from workloads import make_workload

from fastdln.backends.recorded import RecordedTrainer
from fastdln.optim.loop import Checkpoint


def trainer_at(losses, rng, **options):
    """Return a trainer of four steps after the steps with these losses."""
    trainer = RecordedTrainer(make_workload((5, 7, 3), "float64", rng, steps=4, **options))
    for loss in losses:
        trainer._record.step += 1
        trainer._record.losses[trainer._record.step] = loss
    return trainer


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        ((8.0,), "completed"),
        ((8.0, 1.5), "completed"),
        ((8.0, 16.0, 0.8), "converged"),
        ((8.0, 0.0), "converged"),
        ((8.0, np.inf), "diverged"),
        ((np.nan,), "diverged"),
    ],
)
def test_status_is_that_of_the_last_loss(losses, status, rng):
    trainer = trainer_at(losses, rng, tolerance=0.1)
    assert trainer.step == len(losses) - 1
    assert trainer.losses.shape == (5,)
    np.testing.assert_array_equal(trainer.losses[: trainer.step + 1], losses)
    assert (trainer.status, trainer.finished) == (status, status != "completed")


def test_a_continued_run_converges_relative_to_the_first_loss_of_all(rng):
    checkpoint = Checkpoint(steps=3, first_loss=100.0)
    assert trainer_at((8.0,), rng, tolerance=0.1, checkpoint=checkpoint).status == "converged"
    assert trainer_at((11.0,), rng, tolerance=0.1, checkpoint=checkpoint).status == "completed"


def test_losses_are_those_of_the_objective(rng):
    trainer = trainer_at((), rng)
    assert trainer.step == -1
    objective, M = trainer._record._objective, rng.standard_normal((3, 5))
    loss, gradient = objective.evaluate(M)
    np.testing.assert_array_equal(trainer._record.record(M), gradient)
    assert (trainer.step, trainer.losses[0]) == (0, loss)
