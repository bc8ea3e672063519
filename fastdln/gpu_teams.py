"""How many blocks and threads a network gets on a card, and which networks a kernel takes."""

from typing import Any

from fastdln.kernels.cuda.batch import Team, fits, shared_bytes
from fastdln.kernels.cuda.packing import Packing

MOST_THREADS = 256
WARP = 32
# Tiles of a layer that each thread should have in a visit, so that a layer takes a few times what
# its barrier does. An estimate: not measured yet.
TILES_PER_THREAD = 4


def choose_team(packing: Packing, velocity: bool, card: Any) -> Team | None:
    """Return the team of each of these networks, or None where no block can hold one.

    Narrow networks get a single block, wide ones as many as their layers keep busy, and together
    they get no more than the card has multiprocessors.
    """
    tiles = packing.widest**2
    busy = max(1, tiles // (TILES_PER_THREAD * MOST_THREADS))
    share = max(1, card.multiprocessors // len(packing.widths))
    first = min(busy, share, packing.widest)
    for group in _groups(first, min(packing.widest, card.multiprocessors)):
        threads = tiles // (group * TILES_PER_THREAD)
        threads = max(threads, -(-packing.widest // group), WARP)
        for count in range(min(_warps(threads), MOST_THREADS), 0, -WARP):
            team = Team(group, count)
            if not fits(packing, team):
                break
            if shared_bytes(packing, team, velocity) <= card.shared_bytes:
                return team
    return None


def _groups(first: int, last: int) -> list[int]:
    """Return `first` and then larger groups, about doubling, up to `last`."""
    groups = [first]
    while groups[-1] < last:
        groups.append(min(2 * groups[-1], last))
    return groups


def _warps(threads: int) -> int:
    return -(-threads // WARP) * WARP
