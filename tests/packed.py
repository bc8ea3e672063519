"""Networks packed for the chain kernels, and a team of threads to call a kernel with."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastdln.kernels.cpu import layout, team, two_pass
from fastdln.kernels.cpu.groups import GradientStep, Member, Network, Regression, Span
from fastdln.kernels.cpu.tiles import lanes

MOST_MEMBERS = 4


class Packed:
    """A network packed for the kernels, with its products and co-state buffers."""

    def __init__(self, weights, dtype):
        widths = (weights[0].shape[1], *(w.shape[0] for w in weights))
        self.layout = layout.make_layout(widths, dtype)
        self.weights = layout.aligned_zeros(self.layout.size, dtype)
        for i, w in enumerate(weights):
            self.layout.view(self.weights, i)[:] = w
        # Garbage in the buffers must not matter.
        self.products = layout.aligned_zeros(self.layout.product_size, dtype) + np.nan
        self.workspace = two_pass.new_workspace(self.layout, MOST_MEMBERS)
        self.workspace.scratch[:] = np.nan
        q, q_padded, lane = self.layout.q, self.layout.q_padded, lanes(self.layout.dtype)
        self.network = Network(self.weights, self.products, self.layout.layers, q, q_padded, lane)

    def layers(self):
        return [self.layout.view(self.weights, i) for i in range(self.layout.depth)]

    def product(self, layer):
        offset, stride = self.layout.layers[layer, [layout.PRODUCT, layout.STRIDE]]
        rows = self.products[offset : offset + self.layout.q * stride]
        return rows.reshape(self.layout.q, stride)[:, : self.layout.widths[layer]]

    def padding(self):
        total = sum(float(np.abs(w).sum(dtype=np.float64)) for w in self.layers())
        return float(np.abs(self.weights).sum(dtype=np.float64)) - total


class PackedRegression(Packed):
    """A packed network on the loss ``½‖M − T‖²``."""

    def __init__(self, weights, target, rates, decay, dtype, steps):
        super().__init__(weights, dtype)
        self.step = GradientStep(rates, self.layout.dtype.type(decay))
        self.losses = np.full(steps + 1, np.nan)
        self.problem = Regression(np.ones_like(target), target, 0.0, self.losses)

    def run(self, kernel, workspace, team, start, goal, floor=-1.0, words=0):
        span = Span(start, goal, self.losses.size - 1, floor)
        arguments = self.network, workspace, self.step, self.problem, span
        return on_team(team, kernel, *arguments, words=words)


def on_team(size, kernel, *arguments, words=0):
    barrier = team.new_barrier(words, 60 * 10**9)  # never late
    with ThreadPoolExecutor(size) as pool:
        members = [Member(rank, size, barrier) for rank in range(size)]
        runs = [pool.submit(kernel, *arguments, member) for member in members]
        results = [run.result() for run in runs]
    return results[0]


def random_layers(widths, rng):
    pairs = zip(widths, widths[1:], strict=False)
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairs]


def naive_step(weights, rates, decay, gradients):
    """Return the weights after one step of gradient descent."""
    return [decay * w - r * g for w, r, g in zip(weights, rates, gradients, strict=True)]


def regression_case(widths, dtype, rng):
    """Return layers, a target and step sizes with which a few steps are stable."""
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    target = rng.standard_normal((widths[-1], widths[0]))
    rates = (rng.uniform(0.5, 1, len(weights)) * 2e-2 / len(weights)).astype(dtype)
    return weights, target, rates
