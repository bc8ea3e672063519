"""Teams of blocks and threads that share a network in the zigzag kernel, and their memory use."""

import math
from typing import NamedTuple

from fastdln.kernels.cuda.declarations import LOSS_PARTS, MINIBATCH_CHUNK, SharedLayout
from fastdln.kernels.cuda.packing import Packing, pitch, tile, vectors

# Stages of a thread's weight ring, of which all but one are in flight. Three tiles in flight are
# 12 KB for 64 threads of a multiprocessor, about the product of its share of the memory's bandwidth
# and the latency (an estimate).
STAGES = 4
# Number of blocks whose partial sums a thread polls together.
PARTS_AT_ONCE = 12
# Counters per cache line of the device: counters of different networks are on different lines.
LINE = 32
# Maximum rows or columns of M, which the kernel carries in registers.
MOST_CARRIED = 32


class Team(NamedTuple):
    """The blocks and threads that share a network.

    Attributes
    ----------
    group : int
        Blocks.
    threads : int
        Threads of each warp group of a block.
    parts : int
        Parts into which the group divides the terms of every sum; a divisor of `group`.
    warp_groups : int
        1, or 2 in a group of blocks: one for the chain of time t, one for the chain of t+1. On a
        GPU each of two warp groups consists of whole warps.
    """

    group: int
    threads: int
    parts: int = 1
    warp_groups: int = 1

    @property
    def columns(self) -> int:
        """Parts into which the group divides the outputs of a layer."""
        return self.group // self.parts

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.threads * self.warp_groups

    def own(self, widest: int) -> int:
        """Return the maximum tiles of outputs per block when a layer has `widest` tiles."""
        return -(-widest // self.columns)


def fits(packing: Packing, team: Team) -> bool:
    """Return whether the kernel supports these networks: one thread per vector of outputs."""
    enough = team.own(packing.widest) <= team.threads and team.group % team.parts == 0
    enough = enough and (team.warp_groups == 1 or team.group > 1)
    return enough and max(packing.q, packing.d) <= MOST_CARRIED


def exchange_size(packing: Packing, team: Team) -> int:
    """Return the elements of the buffer in which a group of blocks exchanges products."""
    if team.group == 1:
        return 0
    copies = 2 + (2 * team.parts if team.parts > 1 else 0)
    return copies * packing.widest * tile(packing.dtype) * exchanged_elements(packing)


def exchanged_elements(packing: Packing) -> int:
    """Return the elements that blocks exchange per output."""
    unit = tile(packing.dtype)
    return unit * (vectors(packing.q, packing.dtype) + vectors(packing.d, packing.dtype))


def held_tiles(packing: Packing, team: Team) -> int:
    """Return the tiles of products in a block's shared memory: its part of a layer's, or M's."""
    ends = vectors(max(packing.q, packing.d), packing.dtype)
    return max(-(-packing.widest // team.parts), ends)


def shared_layout(packing: Packing, team: Team, velocity: bool) -> SharedLayout:
    """Return the offsets of a block's arrays in shared memory."""
    dtype, q, d = packing.dtype, packing.q, packing.d
    unit, itemsize = tile(dtype), dtype.itemsize
    narrow, wide = pitch(min(q, d), dtype), pitch(max(q, d), dtype)
    terms = held_tiles(packing, team) * unit
    outputs, threads = team.own(packing.widest) * unit, team.threads * unit
    grouped = team.group > 1
    next_products = terms * narrow
    products_end = next_products + terms * wide
    # In a group of blocks with one warp group, products and partial sums are never used at the same
    # time and share memory.
    partial = 0 if grouped and team.warp_groups == 1 else products_end
    next_partial = partial + threads * (narrow + 1)
    partial_end = next_partial + threads * (wide + 1)
    minibatch = vectors(q * (d + MINIBATCH_CHUNK) * 8 // itemsize, dtype) * unit
    known = max(products_end, partial_end, partial + minibatch)
    factors = known + (0 if grouped else outputs * vectors(max(q, d), dtype) * unit)
    gradient = factors + outputs * narrow
    ring = gradient + max(q, d) * narrow
    loss_parts = ring + stages(packing, team) * (1 + velocity) * unit * threads
    starts = [0, next_products, partial, next_partial, known, factors, gradient, ring, loss_parts]
    size = loss_parts * itemsize + (LOSS_PARTS + 1) * 8
    return SharedLayout._make([*(start * itemsize for start in starts), size])


def shared_bytes(packing: Packing, team: Team, velocity: bool) -> int:
    """Return the shared memory of a block in bytes."""
    return shared_layout(packing, team, velocity).size


def stages(packing: Packing, team: Team) -> int:
    """Return the stages, in tiles of weights, of a thread's ring in shared memory.

    With two warp groups these are the tiles in flight and all tiles of two layers: one group reads
    a layer while the other updates the next.
    """
    return STAGES if team.warp_groups == 1 else STAGES - 1 + 2 * most_tiles(packing, team)


def most_tiles(packing: Packing, team: Team) -> int:
    """Return the maximum tiles of a layer that one thread reads."""
    most = 0
    for shape in packing.shapes:
        rows, columns = (vectors(n, packing.dtype) for n in shape)
        for outputs, terms in ((rows, columns), (columns, rows)):
            own, inner = team.own(outputs), math.ceil(terms / team.parts)
            most = max(most, math.ceil(inner / max(1, min(team.threads // own, inner))))
    return most


def barrier_size(team: Team) -> int:
    """Return the elements of the barrier counter of one network's group of blocks."""
    return LINE if team.group > 1 else 0
