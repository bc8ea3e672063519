"""Teams of blocks: what they support, and the memory that they use."""

import numpy as np
import pytest

from fastdln.kernels.cuda import team as teams
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.team import Team, shared_layout

SHAPES = [[(5, 3)], [(5, 22, 17, 3)], [(1, 1, 1)], [(32, 67, 32)], [(2, 23, 1, 13, 9), (2, 40, 9)]]
TEAMS = [Team(1, 12), Team(3, 12), Team(3, 12, 3), Team(4, 7, 2, 2), Team(10, 9, 5)]
FITTING = [
    (shapes, team)
    for shapes in SHAPES
    for team in TEAMS
    if teams.fits(Packing(shapes, "float64"), team)
]


def tiles(n, dtype):
    return -(-n * np.dtype(dtype).itemsize // 16)


def widths_of(shapes):
    return [n for widths in shapes for n in widths]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("team", TEAMS, ids=str)
def test_a_team_fits_where_it_has_a_thread_for_every_tile_of_outputs(team, shapes, dtype):
    packing = Packing(shapes, dtype)
    most = max(tiles(n, dtype) for n in widths_of(shapes))
    columns = team.group // team.parts
    enough = columns * team.threads >= most
    assert teams.fits(packing, team) == enough
    assert team.own(most) == next(own for own in range(most + 1) if own * columns >= most)
    assert team.block == team.threads * team.warp_groups


def test_teams_that_the_kernel_cannot_run_do_not_fit():
    packing = Packing([(5, 8, 3)], "float32")
    assert teams.fits(packing, Team(4, 12, 2))
    assert not teams.fits(packing, Team(4, 12, 3))  # parts that do not divide the group
    assert not teams.fits(packing, Team(1, 12, 1, 2))  # two warp groups in one block
    assert not teams.fits(Packing([(teams.MOST_CARRIED + 1, 3)], "float32"), Team(1, 99))


@pytest.mark.parametrize(("shapes", "team"), FITTING, ids=str)
def test_the_most_tiles_of_a_thread(team, shapes, dtype):
    """By giving out the tiles of every layer, untransposed and transposed, one by one."""
    packing, most = Packing(shapes, dtype), 0
    pairs = [pair for widths in shapes for pair in zip(widths, widths[1:], strict=False)]
    for columns, rows in pairs + [pair[::-1] for pair in pairs]:
        outputs = -(-tiles(rows, dtype) // team.columns)
        terms = -(-tiles(columns, dtype) // team.parts)
        # Threads that share an output take its terms in turn.
        sharing = max(1, min(team.threads // outputs, terms))
        most = max(most, *(len(range(rank, terms, sharing)) for rank in range(sharing)))
    assert teams.most_tiles(packing, team) == most
    stages = teams.STAGES if team.warp_groups == 1 else teams.STAGES - 1 + 2 * most
    assert teams.stages(packing, team) == stages


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("team", TEAMS, ids=str)
def test_only_groups_of_blocks_exchange_products_and_wait(team, shapes, dtype):
    packing = Packing(shapes, dtype)
    widest = max(tiles(n, dtype) for n in widths_of(shapes))
    unit = 16 // np.dtype(dtype).itemsize
    d, q = shapes[0][0], shapes[0][-1]
    carried = unit * (tiles(q, dtype) + tiles(d, dtype))
    assert teams.exchanged_elements(packing) == carried
    # Two copies of the products of a layer, and with parts two of every part's sums.
    copies = 0 if team.group == 1 else 2 if team.parts == 1 else 2 + 2 * team.parts
    assert teams.exchange_size(packing, team) == copies * widest * unit * carried
    assert (teams.barrier_size(team) > 0) == (team.group > 1)


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("team", [Team(1, 12), Team(3, 12, 3), Team(4, 7, 2, 2)], ids=str)
def test_arrays_in_shared_memory_are_aligned_and_in_order(team, velocity, dtype):
    packing = Packing([(5, 22, 17, 3)], dtype)
    layout = shared_layout(packing, team, velocity)
    assert all(start % 16 == 0 for start in layout[:-1])
    order = layout[layout._fields.index("known") :]
    assert list(order) == sorted(order)
    # One warp group of a group of blocks has its partial sums where the products are.
    overlap = team.group > 1 and team.warp_groups == 1
    assert (layout.partial == layout.products) == overlap
    assert (layout.known == layout.factors) == (team.group > 1)
    assert teams.shared_bytes(packing, team, velocity) == layout.size
    assert layout.size > layout[-2]


def test_velocities_take_as_much_of_the_ring_as_weights(dtype):
    packing, team = Packing([(5, 22, 17, 3)], dtype), Team(3, 12, 3)
    without, with_velocity = (shared_layout(packing, team, v) for v in (False, True))
    tile = 16 * (16 // np.dtype(dtype).itemsize)  # bytes: a square of whole vectors
    ring = teams.stages(packing, team) * team.threads * tile
    assert with_velocity.size - without.size == ring
    assert with_velocity[:-2] == without[:-2]
