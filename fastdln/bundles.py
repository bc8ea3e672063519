"""Which cells of a sweep one thread trains side by side, and which alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastdln.kernels.cpu.tiles import lanes

from .cells import Cell
from .kernel_choice import worth_going_side_by_side
from .plan import Plan, chain_layout
from .side_by_side import may_go_side_by_side
from .workers import Bundle

if TYPE_CHECKING:
    from .sweeps import Setting


def bundles(
    setting: "Setting", plans: Mapping[Cell, Plan], cells: Sequence[Cell], threads: int
) -> list[Bundle]:
    """Return all `cells` in bundles: several of one trained shape where that is faster.

    Reduced networks have one shape whatever their width was. A cell has the same bits in any
    bundle.
    """
    if setting.device != "cpu":
        return [(cell,) for cell in cells]
    shapes: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        shapes.setdefault(plans[cell].widths, []).append(cell)
    found: list[Bundle] = []
    for members in shapes.values():
        found += _parted(setting, plans[members[0]], members, threads)
    return found


def _parted(setting: "Setting", plan: Plan, members: list[Cell], threads: int) -> list[Bundle]:
    """Return cells of one shape in as many bundles as threads, in fewer, or each alone."""
    if may_go_side_by_side(setting, plan):
        layout = chain_layout(plan.widths, plan.dtype)
        for parts in range(min(threads, len(members)), 0, -1):
            if worth_going_side_by_side(layout, len(members) // parts):
                return [tuple(members[i::parts]) for i in range(parts)]
    return [(cell,) for cell in members]


def bundle_bytes(bundle: Bundle, plans: Mapping[Cell, Plan]) -> int:
    """Return the most memory that training a bundle holds at a time, in bytes."""
    plan = plans[bundle[0]]
    return plan.bytes * min(len(bundle), lanes(plan.dtype))
