"""Workloads for the GPU's trainer and batches, and the check of their results by `naive`."""

import naive
import numpy as np
import pytest

from fastdln.backends.gpu.device import available
from fastdln.backends.interface import Outcome, Workload
from fastdln.optim.optimizers import Optimizer

# Some hundred roundings of a stable trajectory.
RTOL = {"float32": 3e-4, "float64": 1e-10}
PLAIN = Optimizer()

needs_gpu = pytest.mark.skipif(
    not available(), reason="no GPU that CuPy can use: fastdln.backends.gpu.device.require_gpu()"
)


class Minibatches:
    """A schedule of two samples of five."""

    size = 2

    def __call__(self, step):
        return np.array([step % 5, (step + 2) % 5])


def layers(widths, rng):
    """Return normalised Gaussian layers."""
    pairs = zip(widths, widths[1:], strict=False)
    return [rng.standard_normal((m, n)) / np.sqrt(m) for n, m in pairs]


def workload(widths, objective, rng, steps, *, dtype="float64", rate=0.02, optimizer=PLAIN, **more):
    """Return a workload whose layers are drawn now, or are the sequence `drawn`."""
    drawn, tolerance = more.pop("drawn", None), more.pop("tolerance", 1e-12)
    drawn = layers(widths, rng) if drawn is None else drawn
    return Workload(
        widths,
        np.array(widths[1:], np.float64),
        np.dtype(dtype),
        optimizer,
        rate,
        objective,
        steps,
        tolerance,
        lambda: iter(drawn),
        **more,
    )


def run(trainer, callback=None):
    """Train to the end."""
    last = trainer.losses.size - 1
    trainer.advance(0)
    while trainer.step < last and not trainer.finished:
        trainer.advance(last)
        if callback is not None:
            callback(trainer.step, float(trainer.losses[trainer.step]))


class _Reduced:
    """A reduced objective with the members that `naive` asks for."""

    def __init__(self, objective):
        self.loss = lambda M: objective.evaluate(M)[0]
        self.gradient = lambda M: objective.evaluate(M)[1]


def expected(work, steps=None):
    """Return the losses and layers of naive training."""
    optimizer, objective, schedule = work.optimizer, work.objective, work.schedule
    oracle = (
        naive.Adam(optimizer.weight_decay)
        if optimizer.adam
        else naive.Descent(optimizer.momentum, optimizer.nesterov, optimizer.weight_decay)
    )
    batch = schedule and (lambda M, step: objective.batch_gradient(M, schedule(step)))
    steps = work.steps if steps is None else steps
    with np.errstate(all="ignore"):
        return naive.train_objective(
            list(work.draw()), _Reduced(objective), work.learning_rate, steps, oracle, batch
        )


def check(work, step, losses, layer):
    """Compare the losses up to `step` and the layers with naive training."""
    rtol = RTOL[work.dtype.name]
    theirs, trained = expected(work, step)
    np.testing.assert_allclose(losses, theirs, rtol=rtol)
    for i, w in enumerate(trained):
        np.testing.assert_allclose(layer(i), w, rtol=0, atol=rtol * (1 + np.abs(w).max()))


def outcomes(found):
    """Return the outcomes among what a batch yields."""
    return (o for o in found if isinstance(o, Outcome))
