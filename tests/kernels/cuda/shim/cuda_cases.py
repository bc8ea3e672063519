"""Networks to train on a GPU or on the thread shim, and the check of their losses and layers."""

from contextlib import nullcontext

import naive
import numpy as np
import shim

from fastdln.backends.gpu.device import Device
from fastdln.kernels.cuda import zigzag as kernels
from fastdln.kernels.cuda.packing import Packing

# Some hundred roundings of a stable trajectory.
RTOL = {"float32": 3e-4, "float64": 1e-11}


def shim_launch(dtype, sanitize=None):
    """Return a launch that runs the zigzag kernel on the CPU."""
    run = shim.run if sanitize is None else shim.run_sanitized

    def launch(constants, blocks, threads, shared, parameters):
        run("zigzag", "train_networks", dtype, constants, (blocks, 1), threads, shared, parameters)

    return launch


def few_threads(dtype, most=8):
    """Return a launch of the other kernels on the CPU, by at most `most` threads a block."""

    def launch(name, function, grid, threads, shared, parameters):
        grid = (min(grid[0], 4), 1) if function == "fill_normals" else grid
        shim.run(name, function, dtype, (), grid, min(threads, most), shared, parameters)

    return launch


class Networks:
    """Random networks of the given widths on random regressions, one for each."""

    def __init__(self, shapes, dtype, rng, weight_decay=0.0, momentum=0.0, nesterov=False):
        self.dtype = np.dtype(dtype)
        self.packing = Packing(shapes, dtype)
        self.descent = momentum, nesterov, weight_decay
        self.rates = list(rng.uniform(0.05, 0.1, len(shapes)))
        self.weights = [
            [
                (rng.standard_normal((m, n)) / np.sqrt(m)).astype(dtype)
                for n, m in zip(widths, widths[1:], strict=False)
            ]
            for widths in shapes
        ]
        d, q = self.packing.d, self.packing.q
        self.X = [np.diag(rng.uniform(0.5, 1.0, d)) for _ in shapes]
        self.Y = [rng.standard_normal((q, d)) for _ in shapes]

    def batch(self, xp, team, steps, tolerance=0.0, external=False, samples=None):
        """Return the networks packed and ready."""
        (momentum, nesterov, weight_decay), q = self.descent, self.packing.q
        motions = []
        for rate, widths in zip(self.rates, self.packing.widths, strict=True):
            rows = np.array(widths[1:], dtype=np.float64)
            decay = 1 - rate * weight_decay
            motions.append(kernels.Motion(rate / rows, weight_decay * rows, decay, momentum))
        problems = [
            kernels.Problem(np.tile(X.diagonal(), (q, 1)), Y, 0.25)
            for X, Y in zip(self.X, self.Y, strict=True)
        ]
        batch = kernels.Batch(
            xp,
            self.packing,
            motions,
            steps=steps,
            tolerance=tolerance,
            problems=[] if external else problems,
            team=team,
            nesterov=nesterov,
            samples=samples,
        )
        for i, layers in enumerate(self.weights):
            for j, w in enumerate(layers):
                batch.layer(i, j)[:] = xp.asarray(w)
        return batch

    def check(self, batch, steps):
        """Compare every loss and then every layer with naive training."""
        rtol = RTOL[self.dtype.name]
        for i, (layers, rate) in enumerate(zip(self.weights, self.rates, strict=True)):
            optimizer = naive.Descent(*self.descent)
            losses, expected = naive.train(layers, self.X[i], self.Y[i], rate, steps, optimizer)
            np.testing.assert_allclose(batch.recorded(i, steps), losses + 0.25, rtol=rtol)
            for j, w in enumerate(expected):
                got = batch.layer(i, j)
                got = got if isinstance(got, np.ndarray) else got.get()
                np.testing.assert_allclose(got, w, rtol=0, atol=rtol * (1 + np.abs(w).max()))


class OutOfMemory(Exception):
    """Raised by the shim where an allocation does not fit."""


class ShimLauncher:
    """A `fastdln.backends.gpu.launcher.Launcher` whose kernels run on the CPU."""

    device = Device(0, "threads", 6, 232_448, 233_472, 2200.0)
    xp = np
    # A thread of the shim is a thread of the machine: few of them.
    two_pass_threads = 32

    def __init__(self, dtype, free=1 << 30):
        self.dtype, self.free, self.launches = np.dtype(dtype), free, 0

    def __call__(self, name, function, grid, threads, shared, parameters):
        threads = min(threads, 32)
        shim.run(name, function, self.dtype.name, (), grid, threads, shared, parameters)

    def here(self):
        return nullcontext()

    def zigzag(self, constants, blocks, threads, shared, parameters):
        assert shared <= self.device.shared_bytes
        self.launches += 1
        shim_launch(self.dtype.name)(constants, blocks, threads, shared, parameters)

    def multiply(self, C, A, B, add):
        C[...] = A @ B + (C if add else 0)

    def zigzag_capacity(self, constants, threads, shared):
        grouped = bool(dict(constants)["GROUPED"])
        return self.device.multiprocessors * (1 if grouped else 64)

    def free_bytes(self):
        return self.free

    def synchronize(self):
        pass

    def out_of_memory(self):
        return OutOfMemory

    def recorded(self, work):
        return work
