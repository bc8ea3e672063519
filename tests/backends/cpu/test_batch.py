"""Networks trained in batches are those of a naive trainer, and the same in whatever batch."""

import naive
import numpy as np
import pytest
from packed import random_layers
from workloads import trained, with_team

from fastdln.backends.cpu import batch
from fastdln.backends.cpu.batch import can_batch, train_batch
from fastdln.backends.interface import Outcome, Workload
from fastdln.kernels.cpu.tiles import lanes
from fastdln.objectives.base import RestrictedObjective
from fastdln.objectives.regression import Regression, reduce_regression
from fastdln.optim.loop import Checkpoint
from fastdln.optim.minibatches import Minibatches
from fastdln.optim.optimizers import Optimizer

# The paper's data, fewer outputs than inputs, mirrored, one layer, widths that differ, one input
# and output.
SHAPES = [(16, 12, 10), (4, 7, 7, 3), (2, 7, 7, 5), (4, 3), (3, 5, 1, 8, 3), (1, 1, 1, 1)]


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
        **({"draw": lambda: iter(layers)} | given | options),
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
@pytest.mark.parametrize("widths", SHAPES[1:3], ids=str)
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


# Optimiser of network i, and minibatches where the last entry is set. All else differs, too.
KINDS = {
    "plain": (lambda i: Optimizer(weight_decay=0.1 * (i % 3)), False),
    "momentum": (
        lambda i: Optimizer(
            momentum=0.2 + 0.1 * (i % 7), nesterov=i % 2 == 1, weight_decay=0.2 * (i % 3)
        ),
        False,
    ),
    "minibatches": (lambda i: Optimizer(weight_decay=0.1 * (i % 2)), True),
    "both": (lambda i: Optimizer(momentum=0.5, nesterov=i % 2 == 1), True),
}


def different_workloads(kind, widths, dtype, rng, count):
    """Workloads that differ in everything that networks of a batch may differ in."""
    optimizer, sampled = KINDS[kind]
    objectives = [regression(widths, rng) for _ in range(3)]
    runs = []
    for i in range(count):
        objective = objectives[i % 3]
        n = objective.samples[0].shape[1]
        runs.append(
            workload(
                widths,
                [w.astype(dtype) for w in random_layers(widths, rng)],
                objective,
                dtype,
                learning_rate=1e30 if i == 4 else 0.005 * (i + 1),
                steps=(23, 7, 60, 0, 11)[i % 5],
                tolerance=0.6 if i % 2 else 0.0,
                optimizer=optimizer(i),
                schedule=Minibatches(n, 1 + i % 3, key=i, first_step=i) if sampled else None,
                kernel="two-pass",
            )
        )
    return runs


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # alone, on overflow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", [*SHAPES, "2 vectors", "just over a vector"], ids=str)
def test_bits_are_those_of_training_alone(kind, widths, dtype, rng):
    """Networks that differ in data, rates, constants, minibatches and steps, in refilled lanes."""
    n = lanes(dtype)
    wide = {"2 vectors": (5, 2 * n, 2 * n - 1, 3), "just over a vector": (5, n + 1, n - 1, 3)}
    widths = wide.get(widths, widths)
    runs = different_workloads(kind, widths, dtype, rng, 2 * n + 3)
    found = {o.index: o for o in train_batch(enumerate(runs), n) if isinstance(o, Outcome)}
    assert sorted(found) == list(range(len(runs)))
    for i, run in enumerate(runs):
        losses, layers, state = trained(with_team(run, 1))
        np.testing.assert_array_equal(found[i].losses, losses)
        for index, layer in enumerate(layers):
            np.testing.assert_array_equal(found[i].layer(index), layer)
        for mine, others in zip(found[i].optimizer_state(), state, strict=True):
            for a, b in zip(mine, others, strict=True):
                np.testing.assert_array_equal(a, b)
    assert len({found[i].losses.size for i in found}) > 4
    assert "diverged" in {o.status for o in found.values()}


def test_momentum_continues_from_a_checkpoint(dtype, rng):
    widths = (3, 5, 2)
    objective, layers = regression(widths, rng), random_layers(widths, rng)
    options = {"optimizer": Optimizer(momentum=0.9, nesterov=True), "steps": 9}
    (whole,) = outcomes([workload(widths, layers, objective, dtype, **options)], 1)
    (half,) = outcomes([workload(widths, layers, objective, dtype, **options | {"steps": 4})], 1)
    start = Checkpoint(4, half.optimizer_state(), float(half.losses[0]))
    (rest,) = outcomes(
        [
            workload(
                widths,
                [half.layer(i) for i in range(2)],
                objective,
                dtype,
                **options | {"steps": 5, "checkpoint": start},
            )
        ],
        1,
    )
    np.testing.assert_array_equal(rest.losses, whole.losses[4:])
    np.testing.assert_array_equal(rest.layer(0), whole.layer(0))


def test_networks_of_another_kind_are_refused(rng):
    objective, layers = regression((4, 5, 3), rng), random_layers((4, 5, 3), rng)
    plain = workload((4, 5, 3), layers, objective, "float64")
    other = workload((4, 5, 3), layers, objective, "float64", optimizer=Optimizer(momentum=0.5))
    with pytest.raises(ValueError, match="must have the same widths"):
        list(train_batch(iter([(0, plain), (1, other)]), 2))


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


def test_only_small_regressions_by_two_pass_can_be_batched(dtype, rng):
    kind, n = np.dtype(dtype), lanes(dtype)
    objective, plain = regression((4, 3), rng), Optimizer()
    whole = RestrictedObjective(Regression(np.eye(4), np.ones((3, 4))), None)
    narrow, wide = (4, 2 * n, 3), (4, 2 * n + 1, 3)
    assert can_batch(narrow, kind, plain, objective, "auto", False)
    assert can_batch(narrow, kind, Optimizer(weight_decay=0.1), objective, "two-pass", False)
    assert not can_batch(wide, kind, plain, objective, "auto", False)
    assert can_batch(narrow, kind, Optimizer(momentum=0.5), objective, "auto", False)
    assert can_batch(narrow, kind, plain, objective, "auto", True)
    assert not can_batch(narrow, kind, Optimizer("adam"), objective, "auto", False)
    assert not can_batch(narrow, kind, plain, objective, "zigzag", False)
    assert not can_batch(narrow, kind, Optimizer(momentum=0.5), objective, "zigzag", False)
    assert not can_batch(narrow, kind, plain, whole, "auto", False)


def test_setting_up_takes_turns_only_where_it_is_brief(rng, monkeypatch):
    """A thread that draws for long does not keep the others from drawing."""
    widths = (3, 4, 2)
    objective, layers = regression(widths, rng), random_layers(widths, rng)
    held = []

    def draw():
        held.append(batch._setting_up.locked())
        return iter(layers)

    runs = [workload(widths, layers, objective, "float64", draw=draw) for _ in range(3)]
    outcomes(runs, 3)
    assert held == [True] * 3
    held.clear()
    monkeypatch.setattr(batch, "BRIEF_SECONDS", 0.0)
    outcomes(runs, 2)
    assert held == [True, False, False]
    assert not batch._setting_up.locked()
