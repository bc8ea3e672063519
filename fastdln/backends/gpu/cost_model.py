"""How many blocks and threads a network gets on a card: a small cost model.

It counts cycles of one of a multiprocessor's four schedulers in the visit of a layer. Instructions
were counted in the machine code for sm_90; barriers and bandwidths are from documents. An estimate:
not measured yet. ``python -m benchmarks.gpu --teams`` times the likely teams.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from fastdln.backends.gpu.launcher import WARP
from fastdln.kernels.cuda.packing import Packing, tile, vectors
from fastdln.kernels.cuda.zigzag import MOST_CARRIED, Team, fits, handed, held_tiles, shared_bytes

MOST_THREADS = 256
MOST_PARTS = 12
# Networks up to this width have a block each: their layers take less than a wait for another block.
ALONE_TO = 32
SCHEDULERS = 4
# Networks to a multiprocessor by which the team of many is chosen.
MANY = 4
# Registers of a multiprocessor; each thread takes 256.
REGISTERS, TAKEN = 65_536, 256
# Shared memory that the card keeps for itself in every block.
RESERVED = 1024
# Instructions for each multiply-add of a tile; a warp's float64 ones take two cycles each.
OVERHEAD = 1.35
# Numbers of three products that fit a thread's registers, and cycles of a tile for each more.
HELD, SPILLED = 48, 80
# Beyond so many, layers wider than this are trained by two passes: that takes memory's time, too.
MOST_HELD, NARROW = 56, 128
# A warp that has a scheduler to itself waits for its own loads for so much of its time.
ALONE = 1.3
# Instructions to add up the partial sums of one vector of outputs, for each share and beside
# them, to form its factors (many on the way to the narrow end, few on the way back), and of all
# else in a visit.
ADD, ADD_FIRST, FACTORS, FIXED = 8, 40, 60, 250
# Cycles of the barriers of one block in a visit, and until a block has what another leaves for it:
# a write to the second-level cache, and a read from there by a block that looks again and again.
SYNCS, TRIP = 300, 1100
# Bytes a cycle: into one multiprocessor, and out of the second-level cache.
INTO_ONE, FROM_CACHE = 64, 3500


# Widths that share a launch: a block's shared memory is that of the widest beside it.
CLASSES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def is_carried(widths: tuple[int, ...]) -> bool:
    """Return whether the zigzag kernel carries M's rows and columns through layers this wide."""
    q, d = widths[-1], widths[0]
    held = 2 * min(q, d) + max(q, d)
    return max(q, d) <= MOST_CARRIED and (held <= MOST_HELD or max(widths) <= NARROW)


def class_of(width: int) -> int:
    """Return the widest that networks trained together with this one may be; 0 if none is."""
    return next((c for c in CLASSES if c >= width), 0)


@lru_cache(maxsize=256)
def common_team(
    width: int, ends: tuple[int, int], dtype: str, velocity: bool, card: Any
) -> Team | None:
    """Return the team of networks trained together, of a class and with (d, q) `ends`.

    It is that of very many, however many there are: the order of a sum's terms depends on the
    team, and a network's bits must not depend on its company. None where no team is able.
    """
    d, q = ends
    many = Packing([(d, width, width, q)] * (MANY * card.multiprocessors), dtype)
    return choose_team(many, velocity, card)


def choose_team(packing: Packing, velocity: bool, card: Any) -> Team | None:
    """Return the team with which these networks should train fastest; None where none is able."""
    able = teams(packing, velocity, card)
    return min(able, key=lambda team: step_cycles(packing, team, velocity, card), default=None)


def teams(packing: Packing, velocity: bool, card: Any) -> Iterator[Team]:
    """Yield teams that can work on these networks, small groups first.

    Of groups of which equally many fit on the card at once, one or two blocks to a multiprocessor,
    only the largest.
    """
    most, unit = card.multiprocessors, tile(packing.dtype)
    for group in sorted({2 * most // n for n in range(2, 2 * most + 1)}):
        if group > packing.widest or (group > 1 and packing.widest * unit <= ALONE_TO):
            return
        for parts in (n for n in range(1, MOST_PARTS + 1) if group % n == 0):
            for threads, crews in _threads(packing, group, parts):
                team = Team(group, threads, parts, crews)
                shared = shared_bytes(packing, team, velocity)
                if fits(packing, team) and shared <= card.shared_bytes:
                    yield team


def _threads(packing: Packing, group: int, parts: int) -> list[tuple[int, int]]:
    """Return the likely sizes of a crew, and crews: whole warps, or all threads with work."""
    own, inner = Team(group, 0, parts).own(packing.widest), -(-packing.widest // parts)
    shared = range(own, min(own * inner, MOST_THREADS) + 1, own)
    whole = range(WARP, MOST_THREADS + 1, WARP)
    two = [(threads, 2) for threads in whole if group > 1 and 2 * threads <= MOST_THREADS]
    return [*((threads, 1) for threads in sorted({*whole, *shared})), *two]


def step_cycles(packing: Packing, team: Team, velocity: bool, card: Any) -> float:
    """Return the cycles of a visit of one layer of all networks, for comparing teams."""
    networks, room = len(packing.widths), networks_at_once(packing, team, velocity, card)
    together = min(networks, room)
    return -(-networks // room) * _visit(packing, team, together, card)


def networks_at_once(packing: Packing, team: Team, velocity: bool, card: Any) -> int:
    """Return how many networks the card should work on at the same time."""
    each = shared_bytes(packing, team, velocity) + RESERVED
    shared = card.shared_bytes_of_multiprocessor // each
    warps = -(-team.block // WARP)
    resident = max(1, min(shared, REGISTERS // (TAKEN * WARP * warps)))
    return card.multiprocessors * resident // team.group


def _visit(packing: Packing, team: Team, together: int, card: Any) -> float:
    """Return the cycles of a visit of one layer of so many networks at once.

    Blocks that share a multiprocessor work while others wait, and so does the memory: whichever
    has most to do sets the pace.
    """
    blocks = together * team.group
    neighbours = -(-blocks // card.multiprocessors)
    weights = together * (packing.widest * tile(packing.dtype)) ** 2 * packing.dtype.itemsize
    one, narrow = _issued(packing, team, 1), min(packing.q, packing.d)
    # Of two crews, the one that also moves the weights is the slower.
    share = 1.0 if team.crews == 1 else 2 * narrow / (2 * narrow + (packing.q + packing.d) / 2)
    rounds, company = _company(packing, team, blocks)
    waiting = share * (ALONE * one.work + one.rest + company) + SYNCS + rounds * TRIP
    everything = sum(_issued(packing, team, neighbours))
    return max(waiting, everything, 2 * weights / card.memory_bytes_a_cycle)


class _Issued(NamedTuple):
    """Cycles in which a scheduler gives out instructions: for tiles, and for all else."""

    work: float
    rest: float


def _issued(packing: Packing, team: Team, neighbours: int) -> _Issued:
    """Return what a visit by so many blocks of one multiprocessor takes its schedulers."""
    dtype, unit, widest = packing.dtype, tile(packing.dtype), packing.widest
    narrow, after = min(packing.q, packing.d), (packing.q + packing.d) / 2
    own, inner = team.own(widest), -(-widest // team.parts)
    splits = max(1, min(team.threads // own, inner))
    beside = -(-neighbours * -(-own * splits // WARP) // SCHEDULERS)  # warps of one scheduler
    multiply_add = OVERHEAD if unit == 4 else OVERHEAD + 1
    tiles = -(-inner // splits)
    carried = vectors(narrow, dtype) + vectors(after, dtype)
    items = -(-own * unit * carried // team.threads)
    factors = -(-own * unit * vectors(narrow, dtype) // team.threads)
    held = 2 * narrow + max(packing.q, packing.d)
    tile_cycles = unit**2 * (2 * narrow + after) * multiply_add + SPILLED * max(held - HELD, 0)
    return _Issued(
        beside * tiles * tile_cycles,
        beside * (items * (ADD * splits + ADD_FIRST) + factors * FACTORS + FIXED),
    )


def _company(packing: Packing, team: Team, blocks: int) -> tuple[int, float]:
    """Return how often a block waits for others, and the cycles of reading what they leave."""
    if team.group == 1:
        return 0, 0.0
    size = tile(packing.dtype) * handed(packing) * packing.dtype.itemsize
    tiles = held_tiles(packing, team)
    if team.parts > 1:  # and first its share of what is to be added up
        tiles += team.own(packing.widest)
    rounds = 2 if team.parts > 1 else 1
    return rounds, size * tiles * max(1 / INTO_ONE, blocks / FROM_CACHE)
