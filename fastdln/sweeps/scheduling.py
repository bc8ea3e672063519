"""Division of a sweep's cells into batches, each trained by one thread."""

from collections.abc import Mapping, Sequence

from fastdln.backends.cpu.batch import can_batch
from fastdln.backends.cpu.batch_costs import batching_pays
from fastdln.kernels.cpu.tiles import lanes
from fastdln.optim.optimizers import Optimizer
from fastdln.reduction.plan import Plan
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.executors import CellBatch
from fastdln.sweeps.grid import Cell

# Largest network, in bytes while it is drawn, that is trained in a batch: a larger one takes longer
# to draw than to train, and one for each lane would take much memory.
MOST_BYTES = 2**24


def cell_batches(
    runs: CellRuns,
    plans: Mapping[Cell, Plan],
    cells: Sequence[Cell],
    threads: int,
    most: int | None = None,
) -> list[CellBatch]:
    """Return all `cells` in batches: several of one trained shape where that is faster.

    Reduced networks of different widths have one shape. A cell has the same bits in any
    batch.

    Parameters
    ----------
    threads : int
        Batches that are trained at a time.
    most : int, optional
        Most cells of a batch; None for no limit.
    """
    batches: list[CellBatch] = []
    shapes: dict[tuple[int, ...], list[Cell]] = {}
    batchable: dict[tuple[int, ...], bool] = {}
    for cell in cells:
        plan = plans[cell]
        if plan.widths not in batchable:
            batchable[plan.widths] = _can_batch(runs, plan)
        if batchable[plan.widths] and plan.bytes <= MOST_BYTES:
            shapes.setdefault(plan.widths, []).append(cell)
        else:
            batches.append((cell,))
    for members in shapes.values():
        batches += _divided(plans[members[0]], members, threads, most)
    return batches


def _can_batch(runs: CellRuns, plan: Plan) -> bool:
    config = runs.config
    return config.device == "cpu" and can_batch(
        plan.widths,
        plan.dtype,
        Optimizer.of(config),
        runs.objective,
        config.kernel,
        config.batch_size is not None,
    )


def _divided(plan: Plan, members: list[Cell], threads: int, most: int | None) -> list[CellBatch]:
    """Divide cells of one shape into about a batch or more a thread, or into single cells."""
    each = -(-len(members) // threads)
    each = each if most is None else min(each, most)
    if not batching_pays(plan.widths, plan.dtype, each):
        return [(cell,) for cell in members]
    parts = -(-len(members) // each)
    return [tuple(members[i::parts]) for i in range(parts)]


def batch_bytes(batch: CellBatch, plans: Mapping[Cell, Plan]) -> int:
    """Return an upper estimate of the bytes that training a batch holds at a time."""
    sizes = sorted((plans[cell].bytes for cell in batch), reverse=True)
    return sum(sizes[: lanes(plans[batch[0]].dtype)])
