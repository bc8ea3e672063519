"""The baseline's kernel bodies, run on the CPU, against naive training in float64."""

import naive
import numpy as np
import pytest
import shim
from cuda_cases import RTOL

from fastdln.kernels.cuda import two_pass

SHAPES = [(1, 1), (7, 4), (3, 1, 1), (5, 17, 3), (40, 33, 9), (6, 5, 5, 5, 5, 2)]
THREADS = 32


def launch(dtype, sanitize=None):
    run = shim.run if sanitize is None else shim.run_sanitized

    def start(name, function, grid, threads, shared, parameters):
        run(name, function, dtype, (), grid, threads, shared, parameters)

    return start


class Case:
    """A random network and regression, and how it moves."""

    def __init__(self, widths, dtype, rng, optimizer, kind):
        self.widths, self.dtype, self.optimizer, self.kind = widths, dtype, optimizer, kind
        self.weights = [
            (rng.standard_normal((m, n)) / np.sqrt(m)).astype(dtype)
            for n, m in zip(widths, widths[1:], strict=False)
        ]
        self.s = rng.uniform(0.5, 1.0, widths[0])
        self.Y = rng.standard_normal((widths[-1], widths[0]))
        self.rate = 0.03

    def trained(self, steps, tolerance=0.0, start=None):
        rows = np.array(self.widths[1:], dtype=np.float64)
        power = 0.5 if self.kind == two_pass.ADAM else 1
        decay, momentum = self.optimizer.weight_decay, getattr(self.optimizer, "momentum", 0.0)
        adam = self.kind == two_pass.ADAM
        moving = two_pass.Steps(
            self.kind,
            getattr(self.optimizer, "nesterov", False),
            step_sizes=self.rate / rows**power,
            weight_decays=np.full(len(rows), decay) if adam else decay * rows,
            row_scales=np.sqrt(rows),
            decay_factor=1 - self.rate * decay,
            momentum=momentum,
        )
        start = start or launch(self.dtype)
        net = two_pass.TwoPass(
            start, np, self.widths, self.dtype, moving, steps, tolerance, 0.5, THREADS
        )
        for i, w in enumerate(self.weights):
            net.layer(i)[:] = w
        scale = np.tile(self.s, (self.widths[-1], 1))
        net.form_products()
        net.evaluate(scale, self.Y)
        for _ in range(steps):
            net.update()
            net.form_products()
            net.evaluate(scale, self.Y)
        return net

    def check(self, net, steps):
        losses, expected = naive.train(
            self.weights, np.diag(self.s), self.Y, self.rate, steps, self.optimizer
        )
        rtol = RTOL[self.dtype]
        np.testing.assert_allclose(net.losses, losses + 0.5, rtol=rtol)
        for i, w in enumerate(expected):
            np.testing.assert_allclose(net.layer(i), w, rtol=0, atol=rtol * (1 + np.abs(w).max()))


OPTIMIZERS = {
    "decay": (naive.Descent(weight_decay=0.1), two_pass.PLAIN),
    "polyak": (naive.Descent(0.7, False, 0.05), two_pass.MOMENTUM),
    "nesterov": (naive.Descent(0.7, True, 0.05), two_pass.MOMENTUM),
    "adam": (naive.Adam(0.02), two_pass.ADAM),
}


@pytest.mark.parametrize("widths", SHAPES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trajectories(widths, optimizer, dtype, rng):
    kind = OPTIMIZERS[optimizer][1]
    fresh = type(OPTIMIZERS[optimizer][0])(
        **{k: v for k, v in vars(OPTIMIZERS[optimizer][0]).items() if np.isscalar(v)}
    )
    case = Case(widths, dtype, rng, fresh, kind)
    steps = 2 if len(widths) > 4 else 4
    case.check(case.trained(steps), steps)


def test_steps_queued_after_the_end_do_nothing(rng):
    case = Case((5, 4, 3), "float64", rng, naive.Descent(), two_pass.PLAIN)
    calm = case.trained(6, tolerance=0.999)
    taken = int(calm.state[0])
    assert 0 < taken < 6
    assert calm.losses[taken] <= 0.999 * calm.losses[0]
    assert np.isnan(calm.losses[taken + 1 :]).all()
    case.rate = 1e8
    wild = case.trained(8)
    assert not wild.state[1]
    assert not np.isfinite(wild.losses[wild.state[0]])


def test_no_two_threads_race(rng):
    case = Case((5, 4, 3), "float64", rng, naive.Descent(), two_pass.PLAIN)
    case.check(case.trained(1, start=launch("float64", sanitize="thread")), 1)
