"""Networks trained in batches are those of a naive trainer, and the same in whatever batch."""

import naive
import numpy as np
import pytest
from packed import random_layers

from fastdln.backends.cpu.batch import can_batch, train_batch
from fastdln.backends.interface import Outcome, Workload
from fastdln.kernels.cpu.tiles import lanes
from fastdln.objectives.base import RestrictedObjective
from fastdln.objectives.regression import Regression, reduce_regression
from fastdln.optim.loop import Checkpoint
from fastdln.optim.optimizers import Optimizer

# Fewer outputs than inputs, mirrored, one layer, widths that differ, one input and output.
SHAPES = [(4, 7, 7, 3), (2, 7, 7, 5), (4, 3), (3, 5, 1, 8, 3), (1, 1, 1, 1)]


def regression(widths, rng):
    d, q = widths[0], widths[-1]
    return reduce_regression(rng.standard_normal((d, d + 3)), rng.standard_normal((q, d + 3)))


def workload(widths, layers, objective, dtype, **options):
    given = {"learning_rate": 1e-2, "steps": 20, "tolerance": 0.0, "optimizer": Optimizer()}
    rows = np.array([len(w) for w in layers], dtype=float)
    return Workload(
        widths=widths,
        rows=rows,
        dtype=np.dtype(dtype),
        objective=objective,
        draw=lambda: iter(layers),
        **(given | options),
    )


def outcomes(workloads, count):
    found = {o.index: o for o in train_batch(enumerate(workloads), count) if isinstance(o, Outcome)}
    return [found[i] for i in range(len(found))]


def naive_losses(layers, objective, learning_rate, steps):
    """Losses of normalised weights: layer i of `rows` rows moves by η/rows times its gradient."""
    losses = []
    for _ in range(steps + 1):
        loss, G = objective.evaluate(naive.end_to_end(layers))
        losses.append(loss)
        slopes = naive.backpropagation(layers, G)
        layers = [w - learning_rate / len(w) * g for w, g in zip(layers, slopes, strict=True)]
    return losses


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_losses_are_those_of_a_naive_trainer(widths, dtype, rtol, rng):
    objective, rates = regression(widths, rng), np.geomspace(1e-3, 1e-2, 2 * lanes(dtype) + 3)
    networks = [random_layers(widths, rng) for _ in rates]
    runs = [
        workload(widths, layers, objective, dtype, learning_rate=rate)
        for layers, rate in zip(networks, rates, strict=True)
    ]
    for got, layers, rate in zip(outcomes(runs, lanes(dtype)), networks, rates, strict=True):
        expected = naive_losses(layers, objective, rate, 20)
        np.testing.assert_allclose(got.losses, expected, rtol=rtol)
        assert got.status == "completed"
        loss, _ = objective.evaluate(
            naive.end_to_end([got.layer(i) for i in range(len(widths) - 1)])
        )
        assert loss == pytest.approx(got.losses[-1], rel=rtol)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
@pytest.mark.parametrize("widths", SHAPES[:2], ids=str)
def test_bits_do_not_depend_on_the_batch(widths, dtype, rng):
    """Networks that converge, diverge and end at different steps, in one to all lanes."""
    objective, networks = regression(widths, rng), [random_layers(widths, rng) for _ in range(9)]
    runs = [
        workload(
            widths,
            layers,
            objective,
            dtype,
            learning_rate=1e30 if i == 4 else 0.02 * (i + 1),
            steps=(300, 7, 0)[i % 3],
            tolerance=0.5,
            optimizer=Optimizer(weight_decay=0.1 * (i % 2)),
        )
        for i, layers in enumerate(networks)
    ]
    alone = [next(iter(outcomes([run], 1))) for run in runs]
    assert {o.status for o in alone} == {"completed", "converged", "diverged"}
    for count in range(2, lanes(dtype) + 1):
        for one, got in zip(alone, outcomes(runs, count), strict=True):
            np.testing.assert_array_equal(got.losses, one.losses)
            assert got.status == one.status
            for i in range(len(widths) - 1):
                np.testing.assert_array_equal(got.layer(i), one.layer(i))


def test_workloads_are_taken_one_by_one_and_progress_names_those_in_training(rng):
    widths = (3, 4, 2)
    objective, taken = regression(widths, rng), []

    def workloads():
        for i in range(5):
            taken.append(i)
            yield i, workload(widths, random_layers(widths, rng), objective, "float64", steps=3 + i)

    steps, ended = {}, []
    for report in train_batch(workloads(), 2):
        if isinstance(report, Outcome):
            ended.append(report.index)
            assert report.losses.size == 4 + report.index
            assert steps[report.index][-1] == 3 + report.index
            assert report.optimizer_state() == ()
            # At most the two in training have been drawn besides those that have ended.
            assert len(taken) <= len(ended) + 1
        else:
            assert 1 <= len(report) <= 2
            for index, (step, loss) in report.items():
                steps.setdefault(index, []).append(step)
                assert loss > 0
    assert sorted(ended) == taken == [0, 1, 2, 3, 4]
    assert all(s == sorted(s) for s in steps.values())
    assert list(train_batch(iter(()), 2)) == []


def test_the_layers_of_an_outcome_are_copies(rng):
    widths = (3, 4, 2)
    objective = regression(widths, rng)
    runs = [workload(widths, random_layers(widths, rng), objective, "float64") for _ in range(6)]
    first, kept = None, None
    for report in train_batch(enumerate(runs), 1):
        if isinstance(report, Outcome) and first is None:
            first, kept = report, report.layer(0).copy()
    np.testing.assert_array_equal(first.layer(0), kept)


def test_a_checkpoint_decides_where_a_run_has_converged(rng):
    widths = (3, 4, 2)
    objective, layers = regression(widths, rng), random_layers((3, 4, 2), rng)
    start = Checkpoint(steps=5, first_loss=1e9)
    (got,) = outcomes(
        [workload(widths, layers, objective, "float64", tolerance=0.5, checkpoint=start)], 1
    )
    assert (got.status, got.losses.size) == ("converged", 1)


def test_only_small_plain_regressions_by_two_pass_can_be_batched(dtype, rng):
    kind, n = np.dtype(dtype), lanes(dtype)
    objective, plain = regression((4, 3), rng), Optimizer()
    whole = RestrictedObjective(Regression(np.eye(4), np.ones((3, 4))), None)
    narrow, wide = (4, 2 * n, 3), (4, 2 * n + 1, 3)
    assert can_batch(narrow, kind, plain, objective, "auto", False)
    assert can_batch(narrow, kind, Optimizer(weight_decay=0.1), objective, "two-pass", False)
    assert not can_batch(wide, kind, plain, objective, "auto", False)
    assert not can_batch(narrow, kind, Optimizer(momentum=0.5), objective, "auto", False)
    assert not can_batch(narrow, kind, Optimizer("adam"), objective, "auto", False)
    assert not can_batch(narrow, kind, plain, objective, "zigzag", False)
    assert not can_batch(narrow, kind, plain, objective, "auto", True)
    assert not can_batch(narrow, kind, plain, whole, "auto", False)
