"""Runs of one problem trained in a batch, by either backend: for `train_many` and for sweeps."""

import dataclasses
from collections.abc import Iterator, Sequence

from fastdln.backends.cpu import batch as cpu_batch
from fastdln.backends.interface import Outcome, Progress, Workload
from fastdln.result import TrainResult
from fastdln.training.prepared import PreparedRun
from fastdln.training.run import Run

# The index and the result of a run that has ended, or the progress of each run in training.
Found = tuple[int, TrainResult] | Progress


def can_batch_on_cpu(prepared: PreparedRun) -> bool:
    """Return whether a network in a SIMD lane gets the same bits as one trained alone."""
    chosen, config = prepared.plan, prepared.config
    return cpu_batch.can_batch(
        chosen.widths,
        chosen.dtype,
        prepared.optimizer,
        prepared.objective,
        config.kernel,
        config.batch_size is not None,
    )


def can_batch_on_gpu(prepared: PreparedRun) -> bool:
    """Return whether one launch can train this network with others of its problem and optimiser."""
    if prepared.launcher is None:
        return False
    from fastdln.backends.gpu import batch as gpu_batch  # needs CuPy

    return gpu_batch.can_batch(
        prepared.launcher,
        prepared.plan.widths,
        prepared.objective,
        prepared.optimizer,
        prepared.config.kernel,
    )


def train_on_cpu(runs: Iterator[tuple[int, Run]], lanes: int) -> Iterator[Found]:
    """Train runs of one trained shape in SIMD lanes of this thread.

    Parameters
    ----------
    runs : iterator of (int, Run)
        Indexed runs, each taken when a lane is free.
    lanes : int
        Runs to train at a time.
    """
    taken: dict[int, Run] = {}

    def workloads() -> Iterator[tuple[int, Workload]]:
        for index, run in runs:
            taken[index] = run
            yield index, run.workload

    return _results(cpu_batch.train_batch(workloads(), lanes), taken)


def train_on_gpu(runs: Sequence[Run], keep_layers: bool) -> Iterator[Found]:
    """Train runs of one problem, as many at a time as the GPU has memory for.

    They differ in widths, depths, initialisations, seeds and learning rates only.

    Parameters
    ----------
    runs : sequence of Run
        For which `can_batch_on_gpu` holds.
    keep_layers : bool
        Whether results hold their layers; else a result's layers can be read until the next result.

    Raises
    ------
    MemoryError
        If one network alone does not fit on the GPU.
    """
    from fastdln.backends.gpu import batch as gpu_batch  # needs CuPy

    launcher = runs[0].prepared.launcher
    assert launcher is not None  # implied by `can_batch_on_gpu`
    for run in runs:
        run.keeps_origins = keep_layers  # origins hold or draw full-width layers
    with launcher.here():
        found = gpu_batch.train_batch(launcher, [run.workload for run in runs])
        yield from _results(found, dict(enumerate(runs)), copy_layers=keep_layers)


def _results(
    found: Iterator[Outcome | Progress], runs: dict[int, Run], copy_layers: bool = False
) -> Iterator[Found]:
    for each in found:
        if not isinstance(each, Outcome):
            yield each
            continue
        run = runs.pop(each.index)
        if copy_layers:
            layers = [each.layer(i) for i in range(len(run.prepared.rows))]
            each = dataclasses.replace(each, layer=layers.__getitem__)
        yield each.index, run.result(each)
