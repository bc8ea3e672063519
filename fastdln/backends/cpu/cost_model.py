"""Choose the chain kernel of a network and its team of threads by a cost model.

The model counts, per step, operations, weight bytes moved to and from memory, barriers and calls.
With P the padded weights, q the rows of M and d its columns (q ≤ d):

========  ==============  =============  ============================
kernel    operations      bytes          extra memory
========  ==============  =============  ============================
two-pass  6 q P           3 P itemsize   q rows a layer (2 q by segments)
zigzag    (5 q + d) P     1½ P itemsize  3 q + d rows a layer
========  ==============  =============  ============================

Traffic and arithmetic overlap little (measured: times add), and all threads share the traffic.

A team partitions every layer, with a barrier after each; or, with the two-pass kernel of plain
descent, it shares out segments of the chain (`kernels.cpu.two_pass_segments`). The bits do not
depend on the team, so the choice of the team may depend on the machine: the model's is only where
`pacing` begins, which then goes by measured times. They depend on the kernel, so the choice of the
kernel may not.

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
# Wording of `Team.sharing` in `Choice.reason`.
_SHARED = {"layers": "every layer", "segments": "the chain's segments"}
# Team size at which kernels are compared; see `choose`.
USUAL_TEAM = 2
# Least expected speed-up of a larger team: the model has errors, and the team occupies more cores.
TEAM_GAIN = 1.2
# Teams expected to take longer than this many times the best team's time are not even tried.
MOST_TRIED = 2.5
# Segments of the chain for each member of a team. Of 2, 4, 6, 8 and 12 segments for two threads, 8
# or one of its neighbours was fastest at 26 × 700, 100 × 200 and 300 × 30.
SEGMENTS = 4


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
        Transfer of products that another thread has written.
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


class Team(NamedTuple):
    """The threads that train a network together.

    Attributes
    ----------
    size : int
        Number of threads.
    sharing : {"layers", "segments"}
        What each member has its part of: every layer, or segments of the chain.
    """

    size: int
    sharing: str = "layers"

    @property
    def name(self) -> str:
        """A short name: ``"1"``, ``"2:segments"``."""
        return "1" if self.size == 1 else f"{self.size}:{self.sharing}"


ALONE = Team(1)


class Choice(NamedTuple):
    """Kernel and team of one network.

    Attributes
    ----------
    kernel : {"two-pass", "zigzag"}
    teams : dict of Team to float
        Expected seconds a step of the teams that are worth trying, the best first.
    reason : str
        Explanation of the choice, in one sentence.
    """

    kernel: str
    teams: dict[Team, float]
    reason: str

    @property
    def team(self) -> Team:
        """The team that is expected to be fastest."""
        return next(iter(self.teams))

    @property
    def seconds(self) -> float:
        """Expected seconds a step of that team."""
        return self.teams[self.team]


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
    teams = _teams(layout, name, threads, plain, costs)
    return Choice(name, teams, _reason(layout, kernel, names, name, teams, costs))


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
    seconds = (
        flops / costs.flops_per_second[layout.dtype.name] * _busiest_part(layout, team, sharing)
    )
    seconds += layout.depth * costs.seconds_per_layer
    if team > 1:
        seconds += _synchronisation(layout, zigzag, team, sharing, costs)
    return seconds + _traffic(layout, kernel) * costs.seconds_per_byte


def segment_count(depth: int, team: int) -> int:
    """Return the number of segments of a chain for this team, the same for each member, or 0."""
    return min(SEGMENTS, depth // team) * team


def _busiest_part(layout: Layout, team: int, sharing: str) -> float:
    """Return the busiest team member's fraction of the arithmetic."""
    if sharing == "layers":
        return 1 / team
    # Two of the three products are taken in groups of rows, the update is not; and members wait
    # while the groups turn at the lowest segment.
    group = -(-layout.q_padded // team) / layout.q_padded
    return (2 * group + 1 / team) / 3 * (1 + 2 / (3 * segment_count(layout.depth, team)))


def _synchronisation(layout: Layout, zigzag: bool, team: int, sharing: str, costs: Costs) -> float:
    """Return the synchronisation cost of a team, in seconds a step."""
    # All members increment and poll one counter.
    barrier = costs.seconds_per_barrier * team / 2
    if sharing == "layers":
        return (layout.depth * (1 if zigzag else 2) + 2) * barrier
    handed_over = layout.q_padded / team * layout.widest * layout.dtype.itemsize
    each = 2 * costs.seconds_per_barrier + handed_over * costs.seconds_per_shared_byte
    return 2 * segment_count(layout.depth, team) * each


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


def _teams(
    layout: Layout, kernel: str, threads: int, plain: bool, costs: Costs
) -> dict[Team, float]:
    """Return the expected seconds a step of one thread and of the teams worth trying, best first.

    Of the teams of each way of sharing, that is the best one.
    """
    alone = step_seconds(layout, kernel, 1, costs=costs)
    found = {ALONE: alone}
    for sharing in ("layers", "segments"):
        if sharing == "segments" and not (plain and kernel == "two-pass"):
            continue
        most = threads if sharing == "layers" else min(threads, layout.depth // 2, layout.q_padded)
        best, seconds = ALONE, alone
        for size in range(2, most + 1):
            expected = step_seconds(layout, kernel, size, sharing, costs)
            if expected * (1 if best is ALONE else TEAM_GAIN) < seconds:
                best, seconds = Team(size, sharing), expected
        found[best] = seconds
    # One thread is preferred where a team gains little: it occupies fewer cores.
    ranked = sorted(found, key=lambda team: found[team] * (1 if team is ALONE else TEAM_GAIN))
    limit = MOST_TRIED * found[ranked[0]]
    return {team: found[team] for team in ranked if team is ALONE or found[team] <= limit}


def _reason(
    layout: Layout,
    asked: str,
    considered: list[str],
    kernel: str,
    teams: dict[Team, float],
    costs: Costs,
) -> str:
    size = layout.size * layout.dtype.itemsize / 2**20
    place = "in cache" if _traffic(layout, kernel) == 0 else "from memory"
    widest, team = int(np.max(layout.widths)), next(iter(teams))
    by = "1 thread" if team.size == 1 else f"{team.size} threads sharing {_SHARED[team.sharing]}"
    why = f"{teams[team] * 1e3:.3g} ms a step expected, {_others(layout, considered, costs)}"
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
