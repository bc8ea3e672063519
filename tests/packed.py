"""Networks packed for the chain kernels, and a team of threads to call a kernel with."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastdln.kernels.cpu import layout, team
from fastdln.kernels.cpu import two_pass as chain
from fastdln.kernels.cpu.tiles import lanes


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
        edge = self.layout.q_padded * self.layout.widest
        self.C, self.D = (layout.aligned_zeros(edge, dtype) for _ in range(2))

        # For a team of four.
        self.scratch = layout.aligned_zeros(4 * chain.scratch_numbers(dtype), dtype) + np.nan

    def geometry(self):
        return self.layout.q, self.layout.q_padded, lanes(self.layout.dtype)

    def layers(self):
        return [self.layout.view(self.weights, i) for i in range(self.layout.depth)]

    def product(self, layer):
        offset, stride = self.layout.layers[layer, [layout.PRODUCT, layout.STRIDE]]
        rows = self.products[offset : offset + self.layout.q * stride]
        return rows.reshape(self.layout.q, stride)[:, : self.layout.widths[layer]]

    def padding(self):
        total = sum(float(np.abs(w).sum(dtype=np.float64)) for w in self.layers())
        return float(np.abs(self.weights).sum(dtype=np.float64)) - total


def on_team(size, kernel, *arguments):
    meeting = team.new_meeting()
    with ThreadPoolExecutor(size) as pool:
        runs = [pool.submit(kernel, *arguments, rank, size, meeting) for rank in range(size)]
        for run in runs:
            run.result()


def random_layers(widths, rng):
    pairs = zip(widths, widths[1:], strict=False)
    return [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairs]
