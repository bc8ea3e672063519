"""Which cells of a sweep one thread trains side by side, and which alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastdln.backends.cpu.batch import may_go_side_by_side
from fastdln.backends.cpu.cost_model import worth_going_side_by_side
from fastdln.kernels.cpu.tiles import lanes
from fastdln.reduction.plan import Plan, chain_layout
from fastdln.sweeps.executors import Bundle
from fastdln.sweeps.grid import Cell

if TYPE_CHECKING:
    from fastdln.sweeps.setting import Setting


# Bytes that a network may take while it is drawn and still go side by side: drawing takes longer
# than training what is larger, and as many at a time as there are lanes would take much memory.
MOST_BYTES = 2**24


def bundles(
    setting: "Setting",
    plans: Mapping[Cell, Plan],
    cells: Sequence[Cell],
    threads: int,
    most: int | None = None,
) -> list[Bundle]:
    """Return all `cells` in bundles: several of one trained shape where that is faster.

    Reduced networks have one shape whatever their width was. A cell has the same bits in any
    bundle.

    Parameters
    ----------
    threads : int
        Bundles that are trained at a time.
    most : int, optional
        Cells of a bundle at most; None for no limit.
    """
    alone: list[Bundle] = []
    shapes: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        plan = plans[cell]
        small = setting.device == "cpu" and plan.bytes <= MOST_BYTES
        if small and may_go_side_by_side(setting, plan):
            shapes.setdefault(plan.widths, []).append(cell)
        else:
            alone.append((cell,))
    for members in shapes.values():
        alone += _parted(plans[members[0]], members, threads, most)
    return alone


def _parted(plan: Plan, members: list[Cell], threads: int, most: int | None) -> list[Bundle]:
    """Return cells of one shape in as many bundles as threads, or more, or each alone."""
    each = -(-len(members) // threads)
    each = each if most is None else min(each, most)
    if not worth_going_side_by_side(chain_layout(plan.widths, plan.dtype), each):
        return [(cell,) for cell in members]
    parts = -(-len(members) // each)
    return [tuple(members[i::parts]) for i in range(parts)]


def bundle_bytes(bundle: Bundle, plans: Mapping[Cell, Plan]) -> int:
    """Return about how many bytes training a bundle holds at a time, at most."""
    sizes = sorted((plans[cell].bytes for cell in bundle), reverse=True)
    return sum(sizes[: lanes(plans[bundle[0]].dtype)])
