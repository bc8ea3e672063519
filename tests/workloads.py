"""Workloads for the tests of CPU trainers, and what a naive trainer makes of them."""

import dataclasses

import naive
import numpy as np

from fastdln.backends.cpu.cost_model import ALONE, Team, choose
from fastdln.backends.cpu.pacing import SpanPlan, TeamPacing
from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.backends.cpu.trainer import CpuTrainer
from fastdln.backends.interface import Workload
from fastdln.objectives.base import reduced_objective
from fastdln.objectives.logistic import Logistic
from fastdln.objectives.regression import Regression
from fastdln.optim.minibatches import Minibatches
from fastdln.optim.optimizers import Optimizer

SAMPLES = 40
OBJECTIVES = ["regression", "logistic"]
# Options of a workload, by name.
CASES = {
    "two-pass": {"kernel": "two-pass"},
    "zigzag": {"kernel": "zigzag", "optimizer": Optimizer(weight_decay=0.1)},
    "momentum": {"optimizer": Optimizer(momentum=0.5, weight_decay=0.1)},
    "nesterov": {"optimizer": Optimizer(momentum=0.5, nesterov=True)},
    "adam": {"optimizer": Optimizer("adam", weight_decay=0.1), "learning_rate": 1e-3},
    "minibatches": {"schedule": Minibatches(SAMPLES, 8, key=3)},
}


def make_workload(
    widths,
    dtype,
    rng,
    case="two-pass",
    objective="regression",
    steps=6,
    *,
    like=None,
    layers=None,
    **options,
):
    """Return a workload, or part of another one (`like`), which starts from `layers`."""
    given = {"steps": steps, "tolerance": 0.0, "learning_rate": 1e-2, "optimizer": Optimizer()}
    if like is not None:
        schedule = like.schedule
        if schedule is not None and "checkpoint" in options:
            schedule = schedule.after(options["checkpoint"].steps)
        if layers is not None:
            options["draw"] = lambda: iter(layers)
        return dataclasses.replace(like, steps=steps, schedule=schedule, **options)
    d, q = widths[0], widths[-1]
    X = rng.standard_normal((d, SAMPLES))
    if objective == "logistic":
        problem = Logistic(X, np.arange(SAMPLES) % q, q)
    else:
        problem = Regression(X, rng.standard_normal((q, SAMPLES)))
    pairs = zip(widths, widths[1:], strict=False)
    drawn = [(rng.standard_normal((m, n)) / np.sqrt(n)).astype(dtype) for n, m in pairs]
    rows = options.pop("rows", np.array(widths[1:], dtype=float))
    return Workload(
        widths,
        rows,
        np.dtype(dtype),
        objective=reduced_objective(problem),
        draw=lambda: iter(drawn),
        **(given | CASES[case] | options),
    )


def expected(workload, steps):
    """Return the losses and normalised weights of naive training on the reduced objective."""
    objective, optimizer = workload.objective, workload.optimizer

    class Reduced:
        def loss(self, M):
            return objective.evaluate(M)[0]

        def gradient(self, M):
            return objective.evaluate(M)[1]

    def batch(M, step):
        return objective.batch_gradient(M, workload.schedule(step))

    oracle = (
        naive.Adam(optimizer.weight_decay)
        if optimizer.adam
        else naive.Descent(optimizer.momentum, optimizer.nesterov, optimizer.weight_decay)
    )
    return naive.train_objective(
        list(workload.draw()),
        Reduced(),
        workload.learning_rate,
        steps,
        oracle,
        None if workload.schedule is None else batch,
    )


def trained(trainer):
    """Train to the end; return the losses, the layers and the optimiser's state."""
    last = trainer.losses.size - 1
    with trainer:
        trainer.advance(0)
        while trainer.step < last and not trainer.finished:
            trainer.advance(last)
        losses, state = trainer.losses[: trainer.step + 1].copy(), trainer.optimizer_state()
        depth, layer = trainer.view().depth, trainer.trained_layers()
        return losses, [np.array(layer(i)) for i in range(depth)], state


class FixedPacing(TeamPacing):
    """One team takes every span, two steps at a time."""

    def __init__(self, team):
        super().__init__({ALONE: 1.0})
        self.team = team

    def next_span(self, left):
        return SpanPlan(self.team, min(2, left), 60.0)

    def record(self, team, steps, seconds, late):
        assert not late


def with_team(workload, size, sharing="layers"):
    """Return a trainer with a team of this size, whatever the cost model says."""
    layout = chain_layout(workload.widths, workload.dtype)
    choice = choose(layout, size, kernel=workload.kernel, plain=workload.plain)
    team = Team(size, sharing) if size > 1 else ALONE
    choice = choice._replace(teams={ALONE: 1.0, team: 1.0})
    return CpuTrainer(workload, choice=choice, pacing=FixedPacing(team))


def same(a, b):
    """Raise AssertionError unless losses, layers and optimiser states have the same bits."""
    np.testing.assert_array_equal(a[0], b[0])
    for x, y in zip(a[1], b[1], strict=True):
        np.testing.assert_array_equal(x, y)
    for mine, others in zip(a[2], b[2], strict=True):
        for x, y in zip(mine, others, strict=True):
            np.testing.assert_array_equal(x, y)
