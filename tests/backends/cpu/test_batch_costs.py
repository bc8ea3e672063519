"""Which networks are trained in SIMD lanes, at sizes where the answer is known."""

import numpy as np

from fastdln.backends.cpu.batch_costs import batch_fits, batching_pays
from fastdln.kernels.cpu.layout import make_layout
from fastdln.kernels.cpu.tiles import lanes


def chain(width, depth, dtype="float32", d=16, q=10):
    return make_layout((d, *(width,) * (depth - 1), q), dtype)


def test_batches_are_for_small_networks(dtype):
    n = lanes(dtype)
    assert batch_fits(chain(8, 4, dtype, d=2, q=2))
    assert not batch_fits(chain(2 * n + 1, 4, dtype))
    # The weights of a batch must stay in cache.
    assert not batch_fits(chain(2 * n, 2000, dtype))


def test_a_batch_pays_if_its_lanes_are_filled():
    widths, kind = (16, 10, 10, 10), np.dtype("float32")
    full = lanes(kind)
    assert batching_pays(widths, kind, full)
    assert not batching_pays(widths, kind, 1)
