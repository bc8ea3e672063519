"""Continue a run that has ended: `fastdln.resume`."""

from fastdln.optim.loop import Callback
from fastdln.result import TrainResult
from fastdln.utils import validation
from fastdln.utils.stopwatch import Stopwatch
from fastdln.utils.suggestions import suggests_names
from fastdln.utils.threads import checked


@suggests_names
def resume(
    result: TrainResult,
    *,
    steps: int,
    threads: int | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Continue a run that has ended.

    The result is that of one run of all steps: the optimiser's state and the order of
    minibatches continue, and the tolerance stays relative to the loss before the first step. The
    bits are the same except with the zigzag kernel, whose deferred update is applied in between.

    Parameters
    ----------
    result : TrainResult
        Of a run with ``resumable=True``; it is not modified.
    steps : int
        Steps to take beyond those taken, 0 or more.
    threads : int, optional
        As in `train`, for this call; the first run's is not kept.
    callback : callable, optional
        As in `train`; steps are counted from the start of the first run.

    Returns
    -------
    TrainResult
        With the losses of all steps, and resumable in turn; `result` itself where it has converged.

    Raises
    ------
    TypeError, ValueError
        For arguments out of range, and for a run that diverged or kept no state.
    MemoryError
        If the network does not fit in memory a second time.

    Examples
    --------
    >>> import fastdln
    >>> p = fastdln.paper_regression()
    >>> r = fastdln.train(p, width=100, depth=5, steps=10, momentum=0.9, resumable=True)
    >>> fastdln.resume(r, steps=30).steps_taken
    40
    """
    if not isinstance(result, TrainResult):
        raise TypeError(f"result must be a TrainResult, not {type(result).__name__}")
    steps = validation.non_negative_integer("steps", steps)
    threads = None if threads is None else checked("threads", threads)
    validation.function("callback", callback)
    if result.state is None:
        raise ValueError("result keeps no state to go on from: train with resumable=True")
    if result.status == "diverged":
        raise ValueError("result is of a run that diverged: there is nothing to go on from")
    if result.status == "converged":
        return result
    watch = Stopwatch(result.seconds, result.compile_seconds)
    return result.state.run(result.loss, watch, steps, threads).train(callback)
