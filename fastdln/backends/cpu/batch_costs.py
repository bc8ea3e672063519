"""Choose between training networks in SIMD lanes and one after the other, by expected times."""

import numpy as np

from fastdln.backends.cpu.cost_model import COSTS, Costs, step_seconds
from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.kernels.cpu.layout import VECTORS, Layout
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import TRANSPOSED_VECTORS

# Limit on the weights of a batch, in bytes: at 26 × 200 in float32, two threads with 9 MB each, a
# batch was no faster than training the networks one after the other.
MOST_BATCH_BYTES = 6 * 2**20
# Multiply-add rate of a batch over that of one network, measured at widths 10 to 32.
BATCH_RATE = 0.8


def batch_fits(layout: Layout) -> bool:
    """Return whether networks of this layout can be trained one per SIMD lane.

    All layers must be narrow enough for the two-pass kernel to transpose them, and the weights of
    a batch must stay in cache together with another thread's batch.
    """
    narrow = int(layout.layers[:, VECTORS].max()) <= TRANSPOSED_VECTORS
    return narrow and _batch_size(layout) * layout.dtype.itemsize <= MOST_BATCH_BYTES


def batching_pays(
    widths: tuple[int, ...], dtype: np.dtype, count: int, costs: Costs = COSTS
) -> bool:
    """Return whether `count` networks train faster in batches than one after the other.

    An idle lane costs as much as an occupied one.
    """
    layout = chain_layout(widths, dtype)
    rounds = -(-count // lanes(layout.dtype))
    together = rounds * batch_step_seconds(layout, costs)
    return together < count * step_seconds(layout, "two-pass", 1, costs=costs)


def batch_step_seconds(layout: Layout, costs: Costs = COSTS) -> float:
    """Return the expected seconds of one step of networks in all lanes of one thread."""
    flops = 6.0 * layout.q * _batch_size(layout)
    return flops / (BATCH_RATE * costs.flops_per_second[layout.dtype.name])


def _batch_size(layout: Layout) -> int:
    """Return the elements in the layers of a full batch, which are not padded."""
    n = layout.widths
    return lanes(layout.dtype) * sum(a * b for a, b in zip(n, n[1:], strict=False))
