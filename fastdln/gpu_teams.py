"""How many blocks and threads a network gets on a card: a small cost model.

It counts cycles of one of a multiprocessor's four schedulers in the visit of a layer. Instructions
were counted in the machine code for sm_90; barriers and bandwidths are from documents. An estimate:
not measured yet. ``python -m benchmarks.gpu --teams`` times the likely teams.
"""

from collections.abc import Iterator
from typing import Any

from fastdln.kernels.cuda.batch import Team, fits, held_tiles, shared_bytes
from fastdln.kernels.cuda.packing import Packing, pitch, tile, vectors

MOST_THREADS = 256
MOST_PARTS = 12
WARP = 32
SCHEDULERS = 4
# Registers of a multiprocessor; each thread takes 256.
REGISTERS, TAKEN = 65_536, 256
# Shared memory that the card keeps for itself in every block.
RESERVED = 1024
# Instructions for each multiply-add of a tile; a warp's float64 ones take two cycles each.
OVERHEAD = 1.35
# A warp that has a scheduler to itself waits for its own loads for so much of its time.
ALONE = 1.3
# Instructions to add up the partial sums of one vector of outputs, for each share and beside
# them, and to form its factors.
ADD, ADD_FIRST, FACTORS = 6, 30, 90
# Cycles of the barriers of one block in a visit, and of a meeting of blocks.
SYNCS, MEETING = 500, 2000
# Bytes a cycle: into one multiprocessor, out of the second-level cache, and to and from memory (an
# H200's; an H100 has two thirds).
INTO_ONE, FROM_CACHE, MEMORY = 64, 3500, 2400


def choose_team(packing: Packing, velocity: bool, card: Any) -> Team | None:
    """Return the team with which these networks should train fastest; None where none is able."""
    able = teams(packing, velocity, card)
    return min(able, key=lambda team: step_cycles(packing, team, velocity, card), default=None)


def is_able(packing: Packing, velocity: bool, card: Any) -> bool:
    """Return whether there is any team for these networks."""
    return next(teams(packing, velocity, card), None) is not None


def teams(packing: Packing, velocity: bool, card: Any) -> Iterator[Team]:
    """Yield teams that can work on these networks, small groups first.

    Of groups of which equally many fit on the card at once, only the largest.
    """
    sizes = sorted({card.multiprocessors // n for n in range(1, card.multiprocessors + 1)})
    for group in sizes:
        if group > packing.widest:
            return
        for parts in (n for n in range(1, MOST_PARTS + 1) if group % n == 0):
            for threads in range(WARP, MOST_THREADS + 1, WARP):
                team = Team(group, threads, parts)
                shared = shared_bytes(packing, team, velocity)
                if fits(packing, team) and shared <= card.shared_bytes:
                    yield team


def step_cycles(packing: Packing, team: Team, velocity: bool, card: Any) -> float:
    """Return the cycles of a visit of one layer of all networks, for comparing teams."""
    networks = len(packing.widths)
    room = card.multiprocessors * _resident(packing, team, velocity, card) // team.group
    together = min(networks, room)
    return -(-networks // room) * _visit(packing, team, together, card.multiprocessors)


def _resident(packing: Packing, team: Team, velocity: bool, card: Any) -> int:
    """Return how many blocks a multiprocessor works on at once."""
    each = shared_bytes(packing, team, velocity) + RESERVED
    shared = card.shared_bytes_of_multiprocessor // each
    return max(1, min(shared, REGISTERS // (TAKEN * team.threads)))


def _visit(packing: Packing, team: Team, together: int, multiprocessors: int) -> float:
    """Return the cycles of a visit of one layer of so many networks at once."""
    dtype, widest, carried = packing.dtype, packing.widest, (packing.q + packing.d) / 2
    unit, blocks = tile(dtype), together * team.group
    own, inner = team.own(widest), -(-widest // team.parts)
    splits = max(1, min(team.threads // own, inner))
    warps = -(-own * splits // WARP)
    neighbours = -(-blocks // multiprocessors)
    beside = -(-neighbours * warps // SCHEDULERS)  # warps of one scheduler
    multiply_add = OVERHEAD if unit == 4 else OVERHEAD + 1
    each = 3 * unit**2 * carried * multiply_add
    work = -(-inner // splits) * each * max(beside, ALONE)
    weights = together * (widest * unit) ** 2 * dtype.itemsize
    items = -(-own * unit * vectors(carried, dtype) // team.threads)
    closing = SYNCS + beside * items * (2 * (ADD * splits + ADD_FIRST) + FACTORS)
    return max(work, 2 * weights / MEMORY) + closing + _company(packing, team, blocks)


def _company(packing: Packing, team: Team, blocks: int) -> float:
    """Return the cycles in which blocks hand over what they have and read what they go on with."""
    if team.group == 1:
        return 0.0
    dtype = packing.dtype
    row = (pitch(packing.q, dtype) + pitch(packing.d, dtype)) / 2
    tiles = held_tiles(packing, team)
    if team.parts > 1:  # and first its share of what is to be added up
        tiles += team.own(packing.widest)
    products = 2 * tiles * tile(dtype) * row * dtype.itemsize
    meetings = MEETING * (2 if team.parts > 1 else 1)
    return meetings + max(products / INTO_ONE, products * blocks / FROM_CACHE)
