"""Which chain kernel trains a network, and how many threads share it: a small cost model.

Counted per step: operations, bytes of weights that cross memory, meetings of the team, and calls.
With P the padded weights, q the rows of M and d its columns (q ≤ d):

========  ==============  =============  ============================
kernel    operations      bytes          extra memory
========  ==============  =============  ============================
two-pass  6 q P           3 P itemsize   q rows a layer (2 q by rows)
zigzag    (5 q + d) P     1½ P itemsize  3 q + d rows a layer
========  ==============  =============  ============================

Traffic and arithmetic overlap little (measured: times add), and traffic is shared by all threads.

A team shares every layer and meets after each, or, where a network stays in cache, the rows of the
products: it then meets twice a step, but every member fetches what the others have written. The
bits are the same, so the team and how it shares may depend on the machine; the kernel may not.

The constants were measured by ``python -m benchmarks.chain calibrate``.
"""

from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.layout import VECTORS, Layout
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import FAR, TURNED_VECTORS
from fastdln.utils import validation

KERNELS = ("auto", "two-pass", "zigzag")
# What zigzag may keep beside the weights where nobody asked for it, as a part of the weights.
MOST_EXTRA = 0.1
# What a team shares, in words.
_SHARED = {"layers": "every layer", "rows": "the rows of the products"}
# The team for which kernels are compared.
USUAL_TEAM = 2
# Bytes of weights that may be in work side by side: at 26 × 200 in float32, two threads with 9 MB
# each, it was no faster than one network after the other.
MOST_SIDE_BY_SIDE = 6 * 2**20
# Rate of multiply-adds side by side, over that of a network alone: measured at widths 10 to 32.
LANES_RATE = 0.8
# A larger team must be faster by this factor: its model errs, and it takes a processor from others.
TEAM_GAIN = 1.2


class Costs(NamedTuple):
    """Seconds that the parts of a step take; see `COSTS`.

    Attributes
    ----------
    flops_per_second : dict of str to float
        Arithmetic of one thread on layers in cache, by dtype.
    seconds_per_byte : float
        Weights that do not fit in cache, each time they cross memory.
    seconds_per_meeting : float
        Two threads that share a layer: a barrier, and what each then fetches from the other.
    seconds_per_shared_byte : float
        Weights that another thread has written.
    seconds_per_layer : float
        Calls and short loops, which no team shares.
    """

    flops_per_second: dict[str, float]
    seconds_per_byte: float
    seconds_per_meeting: float
    seconds_per_shared_byte: float
    seconds_per_layer: float


# 2 cores of an AMD EPYC (Zen 5, 2.6 GHz, AVX-512), 2026-11-25. A meeting took 2e-7 s where the two
# shared a cache and 1e-6 s at times when they did not (a virtual machine); in between is assumed.
COSTS = Costs({"float32": 2.2e11, "float64": 1.1e11}, 2.2e-11, 4e-7, 2e-11, 9e-8)


class Choice(NamedTuple):
    """A kernel, the threads that share one network, what they share, and why."""

    kernel: str
    team: int
    sharing: str
    reason: str


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
        Whether this is full-batch gradient descent on a regression without momentum, all that
        zigzag does.

    Raises
    ------
    ValueError
        For an unknown kernel, and for zigzag where it cannot do what is asked.
    """
    check_kernel(kernel, "cpu", plain)
    names = [kernel] if kernel != "auto" else ["two-pass"]
    if kernel == "auto" and plain and extra_memory(layout) <= MOST_EXTRA:
        names.append("zigzag")
    # For a fixed team: a run's bits depend on the kernel and must not depend on the threads.
    name = min(names, key=lambda name: step_seconds(layout, name, USUAL_TEAM, costs=costs))
    ways = ["layers"]
    if plain and name == "two-pass" and _traffic(layout, name) == 0:
        ways.append("rows")
    seconds, team, sharing = _best_team(layout, name, threads, ways, costs)
    return Choice(
        name, team, sharing, _reason(layout, kernel, names, name, team, sharing, seconds, costs)
    )


def check_kernel(kernel: str, device: str, plain: bool, adam: bool = False) -> None:
    """Raise ValueError for an unknown kernel, and for one that cannot do what is asked.

    `plain` is full-batch gradient descent without momentum on a regression.
    """
    validation.one_of("kernel", kernel, KERNELS)
    if kernel != "zigzag":
        return
    if device == "cpu" and not plain:
        raise ValueError(
            "kernel='zigzag' does plain full-batch gradient descent on a regression only;"
            " use 'two-pass' or 'auto'"
        )
    if adam:
        raise ValueError(
            "kernel='zigzag' does gradient descent, not Adam; use 'two-pass' or 'auto'"
        )


def step_seconds(
    layout: Layout, kernel: str, team: int, sharing: str = "layers", costs: Costs = COSTS
) -> float:
    """Return how long one step should take."""
    q, d = layout.q_padded, layout.widths[0]
    zigzag = kernel == "zigzag"
    flops = (5.0 * q + d if zigzag else 6.0 * q) * layout.size
    seconds = flops / costs.flops_per_second[layout.dtype.name] * _share(q, team, sharing)
    seconds += layout.depth * costs.seconds_per_layer
    if team > 1:
        seconds += _company(layout, zigzag, team, sharing, costs)
    return seconds + _traffic(layout, kernel) * costs.seconds_per_byte


def _share(q: int, team: int, sharing: str) -> float:
    """Return the part of the arithmetic that the busiest member does."""
    if sharing == "layers":
        return 1 / team
    # Two products of three go by rows of q.
    return (2 * -(-q // team) / q + 1 / team) / 3


def _company(layout: Layout, zigzag: bool, team: int, sharing: str, costs: Costs) -> float:
    """Return the seconds a step that a team spends on its members' company."""
    # One counter that all members add to and look at.
    meeting = costs.seconds_per_meeting * team / 2
    if sharing == "layers":
        return (layout.depth * (1 if zigzag else 2) + 2) * meeting
    fetched = layout.size * layout.dtype.itemsize * (team - 1) / team
    return 2 * meeting + fetched * costs.seconds_per_shared_byte


def fits_side_by_side(layout: Layout) -> bool:
    """Return whether networks of this layout may be trained one in each vector lane.

    All layers must be so narrow that one network alone transposes them, and what is in work must
    stay in cache beside what another thread has in work.
    """
    narrow = int(layout.layers[:, VECTORS].max()) <= TURNED_VECTORS
    return narrow and _lanes_size(layout) * layout.dtype.itemsize <= MOST_SIDE_BY_SIDE


def worth_going_side_by_side(layout: Layout, count: int, costs: Costs = COSTS) -> bool:
    """Return whether so many networks train faster side by side than one after the other.

    Lanes that are left empty cost as much as the others.
    """
    rounds = -(-count // lanes(layout.dtype))
    flops = 6.0 * layout.q * _lanes_size(layout)
    seconds = flops / (LANES_RATE * costs.flops_per_second[layout.dtype.name])
    return rounds * seconds < count * step_seconds(layout, "two-pass", 1, costs=costs)


def _lanes_size(layout: Layout) -> int:
    """Return the numbers in the layers of as many networks as there are lanes, unpadded."""
    n = layout.widths
    return lanes(layout.dtype) * sum(a * b for a, b in zip(n, n[1:], strict=False))


def extra_memory(layout: Layout) -> float:
    """Return what zigzag keeps beside the weights, as a part of them."""
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
    who = "1 thread" if team == 1 else f"{team} threads sharing {_SHARED[sharing]}"
    why = f"{seconds * 1e3:.3g} ms a step expected, {_others(layout, considered, costs)}"
    if asked != "auto":
        why = f"kernel={asked!r} was asked for"
    return (
        f"{kernel}, {who}: {why} ({layout.depth} layers to width {widest}, {size:.3g} MiB {place})"
    )


def _others(layout: Layout, considered: list[str], costs: Costs) -> str:
    """Return what was said for and against each kernel."""
    if "zigzag" in considered:
        taken = (
            f"{n} {step_seconds(layout, n, USUAL_TEAM, costs=costs) * 1e3:.3g} ms"
            for n in considered
        )
        return f"by {USUAL_TEAM} threads, for which kernels are compared: {', '.join(taken)}"
    extra = extra_memory(layout)
    if extra > MOST_EXTRA:
        return f"zigzag would keep {extra:.0%} of the weights beside them"
    return "zigzag does plain full-batch gradient descent on a regression only"
