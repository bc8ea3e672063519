"""Which chain kernel trains a network, and how many threads share it: a small cost model.

Counted per step: operations, bytes of weights that cross memory, barriers of the team, and calls.
With P the padded weights, q the rows of M and d its columns (q ≤ d):

========  ==============  =============  ============================
kernel    operations      bytes          extra memory
========  ==============  =============  ============================
two-pass  6 q P           3 P itemsize   q rows a layer (2 q by rows)
zigzag    (5 q + d) P     1½ P itemsize  3 q + d rows a layer
========  ==============  =============  ============================

Traffic and arithmetic overlap little (measured: times add), and all threads share the traffic.

A team partitions every layer, with a barrier after each, or, where a network stays in cache, the
rows of the products: two barriers a step, but every member fetches the weights that the others
have written. The bits are the same, so the team and its partition may depend on the machine; the
kernel may not.

The constants were measured by ``python -m benchmarks.chain calibrate``.
"""

from typing import NamedTuple

import numpy as np

from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.config import KERNELS
from fastdln.kernels.cpu.gemm import FAR
from fastdln.kernels.cpu.layout import VECTORS, Layout
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import TRANSPOSED_VECTORS
from fastdln.kernels.cpu.zigzag_workspace import zigzag_size
from fastdln.optim.optimizers import Optimizer
from fastdln.utils import validation

# Most memory that zigzag takes beside the weights unless it was asked for, as a part of them.
MOST_EXTRA = 0.1
# What the members of a team share, for `Choice.reason`.
_SHARED = {"layers": "every layer", "rows": "the rows of the products"}
# The team for which kernels are compared.
USUAL_TEAM = 2
# Most bytes of the weights of a batch: at 26 × 200 in float32, two threads with 9 MB each, a batch
# was no faster than one network after the other.
MOST_BATCH_BYTES = 6 * 2**20
# Rate of multiply-adds of a batch over that of one network: measured at widths 10 to 32.
BATCH_RATE = 0.8
# A larger team must be faster by this factor: its model errs, and it takes a processor from others.
TEAM_GAIN = 1.2


class Costs(NamedTuple):
    """Times of the parts of a step; see `COSTS`.

    Attributes
    ----------
    flops_per_second : dict of str to float
        Arithmetic of one thread on layers in cache, by dtype.
    seconds_per_byte : float
        Weights that do not fit in cache, each time they cross memory.
    seconds_per_barrier : float
        Two threads that share a layer: a barrier, and the data that each then fetches from the
        other.
    seconds_per_shared_byte : float
        Weights that another thread has written.
    seconds_per_layer : float
        Calls and short loops, which every member of a team does.
    """

    flops_per_second: dict[str, float]
    seconds_per_byte: float
    seconds_per_barrier: float
    seconds_per_shared_byte: float
    seconds_per_layer: float


# 2 cores of an AMD EPYC (Zen 5, 2.6 GHz, AVX-512), 2026-11-25. A barrier took 2e-7 s while the two
# cores shared a cache and 1e-6 s while they did not (a virtual machine); 4e-7 s is assumed.
COSTS = Costs({"float32": 2.2e11, "float64": 1.1e11}, 2.2e-11, 4e-7, 2e-11, 9e-8)


class Choice(NamedTuple):
    """How one network is trained.

    Attributes
    ----------
    kernel : {"two-pass", "zigzag"}
    team : int
        Threads that share the network.
    sharing : {"layers", "rows"}
        What they partition: every layer, or the rows of the products.
    reason : str
        Why, in one sentence.
    seconds : float
        Expected seconds a step.
    """

    kernel: str
    team: int
    sharing: str
    reason: str
    seconds: float


def choose(
    layout: Layout,
    threads: int,
    *,
    kernel: str = "auto",
    plain: bool = True,
    costs: Costs = COSTS,
) -> Choice:
    """Return the kernel and team that the cost model expects to be fastest.

    Parameters
    ----------
    layout : Layout
        The chain's shapes and dtype, in the order it is trained.
    threads : int
        Most threads that may share the network.
    kernel : {"auto", "two-pass", "zigzag"}
        Anything but ``"auto"`` overrides the choice of the kernel.
    plain : bool
        Whether this is full-batch gradient descent without momentum on a regression, the only
        case that zigzag implements.

    Raises
    ------
    ValueError
        For an unknown kernel, and for zigzag where `plain` is false.
    """
    check_kernel(kernel, plain)
    names = [kernel] if kernel != "auto" else ["two-pass"]
    if kernel == "auto" and plain and extra_memory(layout) <= MOST_EXTRA:
        names.append("zigzag")
    # For a fixed team: a run's bits depend on the kernel and must not depend on the threads.
    name = min(names, key=lambda name: step_seconds(layout, name, USUAL_TEAM, costs=costs))
    ways = ["layers"]
    if plain and name == "two-pass" and _traffic(layout, name) == 0:
        ways.append("rows")
    seconds, team, sharing = _best_team(layout, name, threads, ways, costs)
    reason = _reason(layout, kernel, names, name, team, sharing, seconds, costs)
    return Choice(name, team, sharing, reason, seconds)


def check_kernel(kernel: str, plain: bool, adam: bool = False) -> None:
    """Raise ValueError for an unknown kernel, and for zigzag in a run that is not plain.

    `plain` is full-batch gradient descent without momentum on a regression.
    """
    validation.one_of("kernel", kernel, KERNELS)
    if kernel == "zigzag" and (adam or not plain):
        raise ValueError(
            "kernel='zigzag' does plain full-batch gradient descent on a regression only;"
            " use 'two-pass' or 'auto'"
        )


def expected_step_seconds(
    widths: tuple[int, ...], dtype: np.dtype, kernel: str, plain: bool, threads: int
) -> float:
    """Return the expected seconds of one step of a network on at most `threads` threads.

    Parameters and errors as for `choose`; `widths` are those of a `Workload`.
    """
    return choose(chain_layout(widths, dtype), threads, kernel=kernel, plain=plain).seconds


def flops_per_step(widths: tuple[int, ...], dtype: np.dtype) -> float:
    """Return the floating-point operations of one two-pass step: three products a layer."""
    layout = chain_layout(widths, dtype)
    return 6.0 * layout.q_padded * layout.size


def network_bytes(widths: tuple[int, ...], dtype: np.dtype, optimizer: Optimizer) -> int:
    """Return the bytes of weights, optimiser state and products while a network is trained."""
    layout = chain_layout(widths, dtype)
    states = layout.size * (1 + optimizer.state_arrays) + layout.product_size
    # The co-states of all layers: a team that partitions the rows of the products keeps them.
    size = states + 2 * layout.q_padded * layout.widest + layout.product_size
    if optimizer.state_arrays == 0 and extra_memory(layout) <= MOST_EXTRA:
        size += zigzag_size(layout)
    return size * layout.dtype.itemsize


def step_seconds(
    layout: Layout, kernel: str, team: int, sharing: str = "layers", costs: Costs = COSTS
) -> float:
    """Return the expected seconds of one step."""
    q, d = layout.q_padded, layout.widths[0]
    zigzag = kernel == "zigzag"
    flops = (5.0 * q + d if zigzag else 6.0 * q) * layout.size
    seconds = flops / costs.flops_per_second[layout.dtype.name] * _busiest_part(q, team, sharing)
    seconds += layout.depth * costs.seconds_per_layer
    if team > 1:
        seconds += _synchronisation(layout, zigzag, team, sharing, costs)
    return seconds + _traffic(layout, kernel) * costs.seconds_per_byte


def _busiest_part(q: int, team: int, sharing: str) -> float:
    """Return the part of the arithmetic that the busiest member of a team does."""
    if sharing == "layers":
        return 1 / team
    # Two products of three are partitioned by the rows of q.
    return (2 * -(-q // team) / q + 1 / team) / 3


def _synchronisation(layout: Layout, zigzag: bool, team: int, sharing: str, costs: Costs) -> float:
    """Return the synchronisation cost of a team, in seconds a step."""
    # All members increment and poll one counter.
    barrier = costs.seconds_per_barrier * team / 2
    if sharing == "layers":
        return (layout.depth * (1 if zigzag else 2) + 2) * barrier
    fetched = layout.size * layout.dtype.itemsize * (team - 1) / team
    return 2 * barrier + fetched * costs.seconds_per_shared_byte


def batch_fits(layout: Layout) -> bool:
    """Return whether networks of this layout may be trained one in each SIMD lane.

    All layers must be so narrow that one network alone transposes them, and the weights of a batch
    must stay in cache beside those of another thread.
    """
    narrow = int(layout.layers[:, VECTORS].max()) <= TRANSPOSED_VECTORS
    return narrow and _batch_size(layout) * layout.dtype.itemsize <= MOST_BATCH_BYTES


def batching_pays(
    widths: tuple[int, ...], dtype: np.dtype, count: int, costs: Costs = COSTS
) -> bool:
    """Return whether `count` networks train faster in batches than one after the other.

    An empty lane costs as much as any other.
    """
    layout = chain_layout(widths, dtype)
    rounds = -(-count // lanes(layout.dtype))
    flops = 6.0 * layout.q * _batch_size(layout)
    seconds = flops / (BATCH_RATE * costs.flops_per_second[layout.dtype.name])
    return rounds * seconds < count * step_seconds(layout, "two-pass", 1, costs=costs)


def _batch_size(layout: Layout) -> int:
    """Return the elements in the layers of a full batch, which are not padded."""
    n = layout.widths
    return lanes(layout.dtype) * sum(a * b for a, b in zip(n, n[1:], strict=False))


def extra_memory(layout: Layout) -> float:
    """Return the memory that zigzag takes beside the weights, as a part of them."""
    rows = 3 * layout.q_padded + layout.widths[0]
    return rows / layout.q_padded * layout.product_size / layout.size


def _traffic(layout: Layout, kernel: str) -> float:
    """Return the bytes of weights that cross memory in one step."""
    nbytes = layout.size * layout.dtype.itemsize
    if nbytes <= FAR:
        return 0.0
    return nbytes * (1.5 if kernel == "zigzag" else 3.0)


def _best_team(
    layout: Layout, kernel: str, threads: int, ways: list[str], costs: Costs
) -> tuple[float, int, str]:
    best = step_seconds(layout, kernel, 1, costs=costs), 1, "layers"
    for team in range(2, threads + 1):
        for sharing in ways:
            seconds = step_seconds(layout, kernel, team, sharing, costs)
            if seconds * (1 if team == best[1] else TEAM_GAIN) < best[0]:
                best = seconds, team, sharing
    return best


def _reason(
    layout: Layout,
    asked: str,
    considered: list[str],
    kernel: str,
    team: int,
    sharing: str,
    seconds: float,
    costs: Costs,
) -> str:
    size = layout.size * layout.dtype.itemsize / 2**20
    place = "in cache" if _traffic(layout, kernel) == 0 else "from memory"
    widest = int(np.max(layout.widths))
    by = "1 thread" if team == 1 else f"{team} threads sharing {_SHARED[sharing]}"
    why = f"{seconds * 1e3:.3g} ms a step expected, {_others(layout, considered, costs)}"
    if asked != "auto":
        why = f"kernel={asked!r} was asked for"
    return (
        f"{kernel}, {by}: {why} ({layout.depth} layers to width {widest}, {size:.3g} MiB {place})"
    )


def _others(layout: Layout, considered: list[str], costs: Costs) -> str:
    """Return the expected times of the kernels compared, or why zigzag is left out."""
    if "zigzag" in considered:
        times = (
            f"{n} {step_seconds(layout, n, USUAL_TEAM, costs=costs) * 1e3:.3g} ms"
            for n in considered
        )
        return f"by {USUAL_TEAM} threads, for which kernels are compared: {', '.join(times)}"
    extra = extra_memory(layout)
    if extra > MOST_EXTRA:
        return f"zigzag would keep {extra:.0%} of the weights beside them"
    return "zigzag does plain full-batch gradient descent on a regression only"
