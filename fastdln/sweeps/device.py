"""Choice and check of the device that trains the cells of a sweep."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fastdln.backends import selection
from fastdln.backends.gpu.device import available
from fastdln.backends.interface import is_plain_regression
from fastdln.optim.optimizers import Optimizer
from fastdln.reduction.plan import Plan
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Cell
from fastdln.sweeps.store import recorded_device
from fastdln.training.prepared import work

log = logging.getLogger("fastdln")


def with_device(runs: CellRuns, plans: Mapping[Cell, Plan], store: Any, client: Any) -> CellRuns:
    """Return the runs with their device chosen.

    A sweep that is continued keeps the device of its store, and a cluster uses its CPUs; else the
    cost models decide (`fastdln.backends.selection`).

    Parameters
    ----------
    runs : CellRuns
    plans : mapping of Cell to Plan
    store : path or None
        As for `fastdln.sweep`.
    client : dask.distributed.Client or None
    """
    if runs.config.device != "auto":
        return runs
    device = "cpu" if client is not None else recorded_device(store)
    if device == "cpu" or (device == "gpu" and available()):
        return _on(runs, device)
    largest = max(plans.values(), key=lambda plan: plan.bytes)
    shapes = Counter(plan.widths for plan in plans.values())
    choice = selection.choose_device("auto", work(runs.config, runs.objective, shapes, largest))
    log.info(choice.reason)
    return _on(runs, choice.device)


def _on(runs: CellRuns, device: str) -> CellRuns:
    return dataclasses.replace(runs, config=dataclasses.replace(runs.config, device=device))


def check_kernel(runs: CellRuns) -> None:
    """Raise ValueError for a kernel that cannot train the cells on their device."""
    config, optimizer = runs.config, Optimizer.of(runs.config)
    plain = is_plain_regression(runs.objective, optimizer, config.batch_size is not None)
    selection.check_kernel(config.kernel, config.device, plain, optimizer.adam)
