"""Many networks on one GPU at once, their kernels run on the CPU, against naive training."""

import logging
import weakref

import gpu_cases as cases
import numpy as np
import pytest
from cuda_cases import OutOfMemory, ShimLauncher

import fastdln
from fastdln.backends.gpu import batch as gpu_batch
from fastdln.backends.gpu.batch import can_batch, train_batch
from fastdln.backends.gpu.device import require_gpu
from fastdln.backends.gpu.launcher import Launcher
from fastdln.backends.interface import Outcome
from fastdln.kernels.cuda.team import Team
from fastdln.objectives.base import reduced_objective
from fastdln.optim.minibatches import Minibatches
from fastdln.optim.optimizers import Optimizer


@pytest.fixture
def objective(rng):
    return fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((3, 5))).reduced


def workloads(objective, rng, depths=(1, 4, 2, 6, 3), width=7, steps=6, **more):
    return [
        cases.workload(
            (5, *[width] * (depth - 1), 3),
            objective,
            rng,
            steps,
            rate=float(rng.uniform(0.01, 0.03)),
            **more,
        )
        for depth in depths
    ]


def check(work, outcome):
    cases.check(work, work.steps, outcome.losses, outcome.layer)
    assert outcome.status == "completed"


def test_networks_of_two_classes_are_trained_at_once(objective, rng):
    launcher = ShimLauncher("float64")
    work = workloads(objective, rng) + workloads(objective, rng, (2, 3), width=40)
    seen, ended = [], set()
    for found in train_batch(launcher, work):
        if not isinstance(found, Outcome):
            seen.append(found)
            continue
        check(work[found.index], found)
        assert found.optimizer_state() == ()
        ended.add(found.index)
    assert ended == set(range(7))
    # Two classes of widths: far fewer launches than networks times steps.
    assert launcher.launches < 12
    assert seen[-1].keys() == {0, 1, 2, 3, 4}


def test_momentum_and_minibatches(objective, rng):
    work = workloads(
        objective,
        rng,
        (1, 3),
        schedule=Minibatches(5, 2, 7),
        optimizer=Optimizer(momentum=0.5, nesterov=True),
    )
    # So few indices a launch that each takes two steps of two networks.
    launcher = ShimLauncher("float64")
    for outcome in cases.outcomes(train_batch(launcher, work, max_indices=8)):
        check(work[outcome.index], outcome)
        ((first, *_),) = outcome.optimizer_state()
        assert first.shape == (work[outcome.index].widths[1], 5)
    assert launcher.launches >= 3


def test_groups_of_blocks_take_as_long_as_each_other(objective, rng, monkeypatch):
    """More networks than the GPU holds at a time, of several depths: two in each launch."""
    monkeypatch.setattr(gpu_batch, "common_team", lambda *given: Team(3, 8))
    working = []

    class Batch(gpu_batch.Batch):
        def advance(self, launch, active, goal, *rest):
            working.append((list(self.depths[active]), list(goal - self.steps_taken()[active])))
            return super().advance(launch, active, goal, *rest)

    monkeypatch.setattr(gpu_batch, "Batch", Batch)
    work = workloads(objective, rng, (2, 4, 8, 16), width=9, steps=30)
    for outcome in cases.outcomes(train_batch(ShimLauncher("float64"), work)):
        check(work[outcome.index], outcome)
    assert all(len(depths) <= 2 for depths, _ in working)
    depths, steps = working[0]
    assert depths == [16, 8]
    # Twice as deep, half the steps (and the loss before the first).
    assert steps == [2, 3]


def test_a_network_has_the_same_bits_in_any_batch(objective, rng):
    work = workloads(objective, rng, (5, 2, 9, 5), width=9, dtype="float32")
    work += workloads(objective, rng, (5,), width=4, dtype="float32")
    (alone,) = cases.outcomes(train_batch(ShimLauncher("float32"), work[:1]))
    for outcome in cases.outcomes(train_batch(ShimLauncher("float32"), work[::-1])):
        if outcome.index == len(work) - 1:
            np.testing.assert_array_equal(outcome.losses, alone.losses)


def test_running_out_of_memory_shrinks_the_batch_and_says_so(objective, rng, monkeypatch, caplog):
    most = 2

    class Batch(gpu_batch.Batch):
        def __init__(self, xp, packing, motions, **options):
            if len(motions) > most:
                raise OutOfMemory
            super().__init__(xp, packing, motions, **options)

    monkeypatch.setattr(gpu_batch, "Batch", Batch)
    work = workloads(objective, rng, steps=3)
    with caplog.at_level(logging.WARNING, "fastdln"):
        for outcome in cases.outcomes(train_batch(ShimLauncher("float64"), work)):
            check(work[outcome.index], outcome)
    assert "with 5 networks at once; going on with 2" in caplog.text
    most = 0
    with pytest.raises(MemoryError, match=r"a network of depth 6 and width 7 .* ran out of memory"):
        list(train_batch(ShimLauncher("float64"), work))


def test_a_batch_is_cut_to_the_free_memory(objective, rng, caplog):
    work = workloads(objective, rng, (3,) * 6, steps=2)
    with caplog.at_level(logging.INFO, "fastdln"):
        found = cases.outcomes(train_batch(ShimLauncher("float64", free=8000), work))
        assert sorted(o.index for o in found) == list(range(6))
    assert caplog.text.count("gpu:0 holds 1 of 6 networks at once") == 1
    with pytest.raises(MemoryError, match="but 100 bytes"):
        list(train_batch(ShimLauncher("float64", free=100), work))


def test_a_batch_is_freed_before_the_next_is_planned(objective, rng, monkeypatch):
    """Also where the last outcome is kept: it must not hold the next batch's memory."""
    work, alive, seen = workloads(objective, rng, (3,) * 6, steps=2), [], []

    class Batch(gpu_batch.Batch):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            alive.append(weakref.ref(self))

    class Watching(ShimLauncher):
        def free_bytes(self):
            seen.append(sum(batch() is not None for batch in alive))
            return super().free_bytes()

    monkeypatch.setattr(gpu_batch, "Batch", Batch)
    kept = []
    for outcome in cases.outcomes(train_batch(Watching("float64", free=8000), work)):
        assert np.isfinite(outcome.layer(0)).all()
        kept.append(outcome)
    assert len(alive) > 1
    assert not any(seen)
    with pytest.raises(RuntimeError, match="until the next outcome"):
        kept[0].layer(0)


def test_other_workloads_are_trained_one_by_one(objective, rng):
    launcher, plain, adam = ShimLauncher("float64"), Optimizer(), Optimizer("adam")
    assert can_batch(launcher, (5, 7, 3), objective, plain, "auto")
    assert not can_batch(launcher, (5, 7, 3), objective, plain, "two-pass")
    assert not can_batch(launcher, (5, 7, 3), objective, adam, "auto")
    assert not can_batch(launcher, (40, 7, 3), objective, plain, "auto")
    logistic = fastdln.Logistic(rng.standard_normal((5, 9)), rng.integers(0, 3, 9))
    assert not can_batch(launcher, (5, 7, 3), reduced_objective(logistic), plain, "auto")
    with pytest.raises(ValueError, match="one by one"):
        next(train_batch(launcher, workloads(objective, rng, optimizer=adam)))


@cases.needs_gpu
def test_many_networks_on_a_gpu(dtype, rng):
    objective = fastdln.paper_regression().reduced
    work = [
        cases.workload(
            (16, *[26] * (depth - 1), 10), objective, rng, 20, dtype=dtype, rate=1e-6, tolerance=0.0
        )
        for depth in [2, 30, 7] * 20
    ]
    launcher = Launcher(require_gpu(), dtype)
    with launcher.here():
        for outcome in cases.outcomes(train_batch(launcher, work)):
            losses, _ = cases.expected(work[outcome.index])
            np.testing.assert_allclose(outcome.losses, losses, rtol=1e-3)
