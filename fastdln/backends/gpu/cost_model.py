"""Predict the time of a step on a GPU, and choose the team of blocks and threads by it.

The model counts cycles of one of a multiprocessor's four schedulers during the update of one layer.
Instructions were counted in the machine code for sm_90; barrier latencies and bandwidths come from
documents. On an H100 measured updates take 1.9 to 2.8 times as long (see `MEASURED_FACTOR`): the
model orders teams roughly right. ``python -m benchmarks.gpu --teams`` times the likely teams.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastdln.kernels.cuda.packing import Packing, tile, vectors
from fastdln.kernels.cuda.team import (
    MOST_CARRIED,
    Team,
    exchanged_elements,
    fits,
    held_tiles,
    shared_bytes,
)

from .device import Device
from .launcher import WARP

# Seconds until the first step of a process: the CUDA context, and NVRTC if the kernel is not in the
# disk cache. H100: 2 to 7 s for each variant of the kernel.
START_SECONDS = 7.0
# Measured time over the model's, H100, float32, d = 16, d_y = 10; the factor is their geometric
# mean. One network of m=1000, L=700, 5.62 ms a step: 2.79; four, 17.9 ms: 2.35; 132 of m=100,
# L=200, 1.39 ms: 1.94; 400 of m=26, L=700, 2.74 ms: 2.64. Hence the error is -14% to +24%.
MEASURED_FACTOR = 2.4
# Seconds of each of the two launches per layer of a two-pass step. An estimate, not measured.
LAUNCH_SECONDS = 4e-6
# Seconds to evaluate a loss and its gradient by CuPy: some 20 kernels. An estimate, not measured.
EVALUATION_SECONDS = 2e-4

MAX_THREADS = 256
MAX_PARTS = 12
# Networks up to this width have one block each: a layer takes less time than a barrier of blocks.
SINGLE_BLOCK_WIDTH = 32
SCHEDULERS = 4
# Networks per multiprocessor assumed when the team of a batch is chosen.
BATCH_NETWORKS = 4
# Registers of a multiprocessor, and of each thread.
REGISTERS, THREAD_REGISTERS = 65_536, 256
# Bytes of shared memory that the device reserves in every block.
RESERVED = 1024
# Instructions per multiply-add of a tile; a warp's float64 ones take two cycles each.
OVERHEAD = 1.35
# Elements of three products that fit a thread's registers; cycles of a tile per spilled element.
HELD, SPILLED = 48, 80
# Networks with more elements than MAX_HELD and layers wider than NARROW are trained by two passes:
# spilling then takes more time than reading the weights again.
MAX_HELD, NARROW = 56, 128
# Slowdown of a warp that is alone on its scheduler: no other warp hides the latency of its loads.
ALONE = 1.3
# Instructions to add up one vector of outputs (ADD per partial sum, ADD_FIRST once), to form its
# factors (more in the direction of the narrow end than back), and for the rest of an update.
ADD, ADD_FIRST, FACTORS, FIXED = 8, 40, 60, 250
# Cycles of one block's barriers in an update; cycles from a block's write to the second-level cache
# until a polling block has read it.
BARRIERS, ROUND_TRIP = 300, 1100
# Bandwidths in bytes per cycle: into one multiprocessor, and out of the second-level cache.
MULTIPROCESSOR_BYTES, CACHE_BYTES = 64, 3500

# Upper limits of the classes of widths that share a launch. All blocks of a launch have the shared
# memory that the widest network needs.
CLASSES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def check_kernel(kernel: str, adam: bool) -> None:
    """Raise ValueError for a kernel that cannot train with this optimiser on a GPU."""
    if kernel == "zigzag" and adam:
        raise ValueError(
            "kernel='zigzag' does gradient descent, not Adam; use 'two-pass' or 'auto'"
        )


def is_carried(widths: tuple[int, ...]) -> bool:
    """Return whether the zigzag kernel carries M's rows and columns through layers this wide."""
    d_y, d = widths[-1], widths[0]
    held = 2 * min(d_y, d) + max(d_y, d)
    return max(d_y, d) <= MOST_CARRIED and (held <= MAX_HELD or max(widths) <= NARROW)


def class_of(width: int) -> int:
    """Return the upper limit of a width's class; 0 if the width is in none."""
    return next((c for c in CLASSES if c >= width), 0)


@lru_cache(maxsize=256)
def common_team(
    width: int, ends: tuple[int, int], dtype: str, momentum: bool, device: Device
) -> Team | None:
    """Return the team of batched networks of a class and with (d, d_y) `ends`.

    The team is chosen for a large batch whatever the number of networks: the order of a sum's terms
    depends on the team, and a network's bits must not depend on the other networks of its batch.
    None if the kernel can train such networks by no team.
    """
    d, d_y = ends
    many = Packing([(d, width, width, d_y)] * (BATCH_NETWORKS * device.multiprocessors), dtype)
    return choose_team(many, momentum, device)


def choose_team(packing: Packing, momentum: bool, device: Device) -> Team | None:
    """Return the team expected to train these networks fastest; None if no team can."""
    able = teams(packing, momentum, device)
    return min(able, key=lambda team: step_cycles(packing, team, momentum, device), default=None)


def teams(packing: Packing, momentum: bool, device: Device) -> Iterator[Team]:
    """Yield the teams that can train these networks, small groups of blocks first.

    At one or two blocks per multiprocessor, only the largest of the group sizes that fit the
    device equally often is considered.
    """
    most, unit = device.multiprocessors, tile(packing.dtype)
    for group in sorted({2 * most // n for n in range(2, 2 * most + 1)}):
        if group > packing.widest or (group > 1 and packing.widest * unit <= SINGLE_BLOCK_WIDTH):
            return
        for parts in (n for n in range(1, MAX_PARTS + 1) if group % n == 0):
            for threads, warp_groups in _threads(packing, group, parts):
                team = Team(group, threads, parts, warp_groups)
                shared = shared_bytes(packing, team, momentum)
                if fits(packing, team) and shared <= device.shared_bytes:
                    yield team


def _threads(packing: Packing, group: int, parts: int) -> list[tuple[int, int]]:
    """Return candidate (threads per warp group, warp groups): whole warps, or no idle thread."""
    own, inner = Team(group, 0, parts).own(packing.widest), -(-packing.widest // parts)
    shared = range(own, min(own * inner, MAX_THREADS) + 1, own)
    whole = range(WARP, MAX_THREADS + 1, WARP)
    two = [(threads, 2) for threads in whole if group > 1 and 2 * threads <= MAX_THREADS]
    return [*((threads, 1) for threads in sorted({*whole, *shared})), *two]


def expected_step_seconds(
    widths: tuple[int, ...],
    dtype: DTypeLike,
    momentum: bool,
    device: Device,
    *,
    zigzag: bool = True,
    regression: bool = True,
) -> float:
    """Return the expected time of one step of one network, in seconds.

    Every layer is assumed to be as wide as the widest.

    Parameters
    ----------
    widths : tuple of int
        ``(d, m_1, …, m_{L-1}, d_y)``.
    dtype : {"float32", "float64"}
    momentum : bool
        Whether the optimiser keeps a velocity.
    device : Device
    zigzag : bool
        Whether the zigzag kernel is allowed (false for Adam); it is used if it supports the widths.
    regression : bool
        Whether the kernels evaluate the loss; otherwise CuPy evaluates it after every step.
    """
    dtype, ends = np.dtype(dtype), (widths[0], widths[-1])
    seconds = 0.0 if regression else EVALUATION_SECONDS
    cycles = _alone_cycles(max(widths), ends, dtype, momentum, device) if zigzag else None
    if cycles is None or not is_carried(widths):
        return seconds + _two_pass_seconds(widths, dtype, momentum, device)
    return seconds + MEASURED_FACTOR * cycles * (len(widths) - 1) / device.clock_hz


def expected_batch_step_seconds(
    networks: Sequence[tuple[int, ...]],
    dtype: DTypeLike,
    momentum: bool,
    device: Device,
    *,
    zigzag: bool = True,
    regression: bool = True,
) -> float:
    """Return the expected time in which every network takes one step, in seconds.

    Networks that cannot be batched are trained one after the other. So are the classes of widths of
    the batched ones, each of which takes as long as its deepest network. A single network is not
    batched.

    Parameters
    ----------
    networks : sequence of tuple of int
        The widths of each network.
    dtype, momentum, device, zigzag, regression
        As for `expected_step_seconds`.
    """
    dtype, classes = np.dtype(dtype), dict[int, list[tuple[int, ...]]]()
    seconds = 0.0
    for widths in networks:
        width = class_of(max(widths)) if zigzag and regression and len(networks) > 1 else 0
        if width and is_carried(widths):
            classes.setdefault(width, []).append(widths)
        else:
            seconds += expected_step_seconds(
                widths, dtype, momentum, device, zigzag=zigzag, regression=regression
            )
    for width, members in classes.items():
        ends, depth = (members[0][0], members[0][-1]), max(map(len, members)) - 1
        team = common_team(width, ends, dtype.name, momentum, device)
        if team is None:
            seconds += sum(expected_step_seconds(w, dtype, momentum, device) for w in members)
            continue
        packing = Packing([(ends[0], width, width, ends[1])], dtype)
        cycles = step_cycles(packing, team, momentum, device, len(members))
        seconds += MEASURED_FACTOR * cycles * depth / device.clock_hz
    return seconds


@lru_cache(maxsize=256)
def _alone_cycles(
    width: int, ends: tuple[int, int], dtype: np.dtype, momentum: bool, device: Device
) -> float | None:
    """Return the model's cycles of a layer update of a single network; None if no team can."""
    packing = Packing([(ends[0], width, width, ends[1])], dtype)
    team = choose_team(packing, momentum, device)
    return None if team is None else step_cycles(packing, team, momentum, device)


def _two_pass_seconds(
    widths: tuple[int, ...], dtype: np.dtype, momentum: bool, device: Device
) -> float:
    """Return the expected seconds of a two-pass step: pass 1 reads, pass 2 reads and writes."""
    weights = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    traffic = (3 + 2 * momentum) * weights * dtype.itemsize
    bandwidth = device.memory_bytes_per_cycle * device.clock_hz
    return traffic / bandwidth + 2 * (len(widths) - 1) * LAUNCH_SECONDS


def step_cycles(
    packing: Packing, team: Team, momentum: bool, device: Device, networks: int | None = None
) -> float:
    """Return the model's cycles to update one layer of all networks.

    `networks` overrides the number of networks in the packing.
    """
    networks = len(packing.widths) if networks is None else networks
    capacity = networks_at_once(packing, team, momentum, device)
    at_once = min(networks, capacity)
    return -(-networks // capacity) * _update_cycles(packing, team, at_once, device)


def networks_at_once(packing: Packing, team: Team, momentum: bool, device: Device) -> int:
    """Return the number of networks that are expected to be resident at the same time."""
    each = shared_bytes(packing, team, momentum) + RESERVED
    shared = device.shared_bytes_per_multiprocessor // each
    warps = -(-team.block // WARP)
    resident = max(1, min(shared, REGISTERS // (THREAD_REGISTERS * WARP * warps)))
    return device.multiprocessors * resident // team.group


def _update_cycles(packing: Packing, team: Team, networks: int, device: Device) -> float:
    """Return the cycles to update one layer of `networks` resident networks.

    Blocks that share a multiprocessor overlap each other's waits and memory transfers, so the
    longest of instruction issue, latency and memory traffic determines the time.
    """
    blocks = networks * team.group
    neighbours = -(-blocks // device.multiprocessors)
    weights = networks * (packing.widest * tile(packing.dtype)) ** 2 * packing.dtype.itemsize
    one, narrow = _issue_cycles(packing, team, 1), min(packing.q, packing.d)
    # The slower of two warp groups is the one that also updates the weights.
    both = 2 * narrow + (packing.q + packing.d) / 2
    share = 1.0 if team.warp_groups == 1 else 2 * narrow / both
    rounds, reading = _synchronisation(packing, team, blocks)
    waiting = share * (ALONE * one.tiles + one.rest + reading) + BARRIERS + rounds * ROUND_TRIP
    everything = sum(_issue_cycles(packing, team, neighbours))
    return max(waiting, everything, 2 * weights / device.memory_bytes_per_cycle)


class _IssueCycles(NamedTuple):
    """Cycles in which a scheduler issues instructions: for tiles, and for all other work."""

    tiles: float
    rest: float


def _issue_cycles(packing: Packing, team: Team, neighbours: int) -> _IssueCycles:
    """Return the issue cycles of an update by `neighbours` blocks of one multiprocessor."""
    dtype, unit, widest = packing.dtype, tile(packing.dtype), packing.widest
    narrow, after = min(packing.q, packing.d), (packing.q + packing.d) / 2
    own, inner = team.own(widest), -(-widest // team.parts)
    splits = max(1, min(team.threads // own, inner))
    warps = -(-neighbours * -(-own * splits // WARP) // SCHEDULERS)  # of one scheduler
    multiply_add = OVERHEAD if unit == 4 else OVERHEAD + 1
    tiles = -(-inner // splits)
    carried = vectors(narrow, dtype) + vectors(after, dtype)
    items = -(-own * unit * carried // team.threads)
    factors = -(-own * unit * vectors(narrow, dtype) // team.threads)
    held = 2 * narrow + max(packing.q, packing.d)
    tile_cycles = unit**2 * (2 * narrow + after) * multiply_add + SPILLED * max(held - HELD, 0)
    return _IssueCycles(
        warps * tiles * tile_cycles,
        warps * (items * (ADD * splits + ADD_FIRST) + factors * FACTORS + FIXED),
    )


def _synchronisation(packing: Packing, team: Team, blocks: int) -> tuple[int, float]:
    """Return a block's waits for other blocks per update, and the cycles to read their results."""
    if team.group == 1:
        return 0, 0.0
    size = tile(packing.dtype) * exchanged_elements(packing) * packing.dtype.itemsize
    tiles = held_tiles(packing, team)
    if team.parts > 1:  # also reads its partition of the partial sums
        tiles += team.own(packing.widest)
    rounds = 2 if team.parts > 1 else 1
    return rounds, size * tiles * max(1 / MULTIPROCESSOR_BYTES, blocks / CACHE_BYTES)
