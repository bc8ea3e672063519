"""Choose the chain kernel of a network and its team of threads by a cost model.

The model counts, per step, operations, weight bytes moved to and from memory, barriers and calls.
With P the padded weights, q the rows of M and d its columns (q ≤ d):

========  ==============  =============  ============================
kernel    operations      bytes          extra memory
========  ==============  =============  ============================
two-pass  6 q P           3 P itemsize   q rows a layer (2 q by rows)
zigzag    (5 q + d) P     1½ P itemsize  3 q + d rows a layer
========  ==============  =============  ============================

Traffic and arithmetic overlap little (measured: times add), and all threads share the traffic.

A team partitions every layer, with a barrier after each; or, where a network stays in cache, the
rows of the products, with two barriers a step, but every member then fetches the weights that the
others have written. The bits do not depend on the team, so the choice of the team may depend on
the machine. They depend on the kernel, so the choice of the kernel may not.

The constants were measured by ``python -m benchmarks.chain calibrate``.
"""

from typing import NamedTuple

import numpy as np

from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.config import KERNELS
from fastdln.kernels.cpu.gemm import FAR
from fastdln.kernels.cpu.layout import Layout
from fastdln.kernels.cpu.zigzag_workspace import zigzag_size
from fastdln.optim.optimizers import Optimizer
from fastdln.utils import validation

# Limit on zigzag's extra memory, as a fraction of the weights, unless the caller asked for zigzag.
MOST_EXTRA = 0.1
# Wording of `Choice.sharing` in `Choice.reason`.
_SHARED = {"layers": "every layer", "rows": "the rows of the products"}
# Team size at which kernels are compared; see `choose`.
USUAL_TEAM = 2
# Least expected speed-up of a larger team: the model has errors, and the team occupies more cores.
TEAM_GAIN = 1.2


class Costs(NamedTuple):
    """Measured rates and times from which the time of a step is composed; see `COSTS`.

    Attributes
    ----------
    flops_per_second : dict of str to float
        Arithmetic of one thread on layers in cache, by dtype.
    seconds_per_byte : float
        Transfer of weights that do not fit in cache, to or from memory.
    seconds_per_barrier : float
        A barrier of two threads that share a layer, with the transfer of data between them.
    seconds_per_shared_byte : float
        Transfer of weights that another thread has written.
    seconds_per_layer : float
        Overhead of calls and short loops, not divided by the team.
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
    """Kernel and team of one network.

    Attributes
    ----------
    kernel : {"two-pass", "zigzag"}
    team : int
        Threads that share the network.
    sharing : {"layers", "rows"}
        The axis that the team partitions: every layer, or the rows of the products.
    reason : str
        Explanation of the choice, in one sentence.
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
        The chain's shapes and dtype, in the orientation in which it is trained.
    threads : int
        Maximum size of the team.
    kernel : {"auto", "two-pass", "zigzag"}
        Any value but ``"auto"`` fixes the kernel.
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
    # Compare kernels at a fixed team size: the bits of a run depend on the kernel, and must not
    # depend on the number of threads.
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
    """Return the bytes of a network in training: weights, optimiser state and products."""
    layout = chain_layout(widths, dtype)
    states = layout.size * (1 + optimizer.state_arrays) + layout.product_size
    # Include the co-states of all layers, which a team that partitions rows of the products keeps.
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
    """Return the busiest team member's fraction of the arithmetic."""
    if sharing == "layers":
        return 1 / team
    # Two of the three products are partitioned by their q rows, the update by elements.
    return (2 * -(-q // team) / q + 1 / team) / 3


def _synchronisation(layout: Layout, zigzag: bool, team: int, sharing: str, costs: Costs) -> float:
    """Return the synchronisation cost of a team, in seconds a step."""
    # All members increment and poll one counter.
    barrier = costs.seconds_per_barrier * team / 2
    if sharing == "layers":
        return (layout.depth * (1 if zigzag else 2) + 2) * barrier
    fetched = layout.size * layout.dtype.itemsize * (team - 1) / team
    return 2 * barrier + fetched * costs.seconds_per_shared_byte


def extra_memory(layout: Layout) -> float:
    """Return zigzag's extra memory as a fraction of the weights."""
    rows = 3 * layout.q_padded + layout.widths[0]
    return rows / layout.q_padded * layout.product_size / layout.size


def _traffic(layout: Layout, kernel: str) -> float:
    """Return the weight bytes moved to and from memory in one step."""
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
    """Return the expected times of the kernels compared, or the reason for excluding zigzag."""
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
