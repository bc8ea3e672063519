"""Train one network: `fastdln.train`."""

from collections.abc import Sequence

from numpy.typing import DTypeLike

from fastdln.config import TrainConfig
from fastdln.network import Network
from fastdln.objectives.base import Objective
from fastdln.optim.loop import Callback
from fastdln.result import TrainResult
from fastdln.rng import Seed, seed_key
from fastdln.training.prepared import prepare
from fastdln.training.run import Run
from fastdln.utils import validation
from fastdln.utils.stopwatch import Stopwatch
from fastdln.utils.suggestions import suggests_names


@suggests_names
def train(
    problem: Objective,
    *,
    width: int | Sequence[int] | None = None,
    depth: int | None = None,
    init: str | None = None,
    gain: float | None = None,
    steps: int = 10_000,
    learning_rate: float | None = None,
    optimizer: str = "gd",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    seed: Seed = 0,
    dtype: DTypeLike | None = None,
    device: str = "cpu",
    threads: int | None = None,
    method: str = "auto",
    kernel: str = "auto",
    network: Network | None = None,
    rank_tolerance: float | None = None,
    tolerance: float | None = None,
    callback: Callback | None = None,
    resumable: bool = False,
) -> TrainResult:
    """Train a deep linear network by gradient descent.

    Parameters
    ----------
    problem : Regression, Logistic, MatrixCompletion, MatrixSensing or another objective
        The loss, a function of the end-to-end matrix; see `fastdln.Objective` for your own.
    width, depth, init, gain
        The network to draw, as in `fastdln.initialize`; by default orthogonal, of gain 1.
    steps : int
        Steps to take, 0 or more.
    learning_rate : float, optional
        The paper's η, for the paper's weights ``W_i``: layer i of the normalised weights moves
        with η / rows of layer i. None means the theorem's largest,
        ``d_y / (2 L ‖X‖₂²)`` (Hu, Xiao & Pennington 2020, Theorem 4.1).
    optimizer : {"gd", "adam"}
        Gradient descent, or Adam (Kingma & Ba 2015; β = 0.9, 0.999, ε = 1e-8), both on the
        paper's weights. Adam does not reduce: its steps are taken entry by entry.
    momentum : float
        μ in [0, 1): ``v := μ v + gradient``, ``W −= η v`` (Polyak).
    nesterov : bool
        Nesterov's form of momentum, ``W −= η (gradient + μ v)``.
    weight_decay : float
        λ ≥ 0: ``λ W_i`` is added to the gradient of ``W_i``. Losses leave the penalty out.
    batch_size : int, optional
        Samples per step, from 1 to n; None is full-batch. Batches are consecutive parts of a
        permutation of the samples that is drawn anew, from `seed`, when it is used up (a last
        part smaller than a batch is left out). The gradient is scaled to be unbiased; the loss
        is the full one at every step.
    seed : int, or as for `numpy.random.default_rng`
        Decides the network and the minibatches.
    dtype : {"float64", "float32"}, optional
        None means the given network's, or float64. Losses are float64 always.
    device : {"cpu", "gpu", "gpu:N", "auto"}
        ``"gpu"`` needs an NVIDIA GPU and CuPy (``fastdln[cuda12]`` or ``[cuda13]``); ``"auto"``
        takes the GPU where one is usable and cost models expect it to be clearly faster, its start
        included. The result states the device and the reason.
    threads : int, optional
        Most threads to use, from 1 to the processors that this process may use: those of its
        affinity mask and of its CPU quota (Linux control groups). None means the environment
        variable ``FASTDLN_NUM_THREADS``, or all these processors but no more than
        ``OMP_NUM_THREADS`` and ``NUMBA_NUM_THREADS``. The bits do not depend on it.
    method : {"auto", "reduced", "dense"}
        ``"reduced"`` trains a narrower network with exactly the same loss curve and raises where
        that is not exact; ``"dense"`` does not; ``"auto"`` reduces whenever it is exact. Dense
        and reduced runs agree to rounding, step by step; where the trajectory itself is
        unstable (narrow networks at the theorem's largest step), rounding differences grow
        along it as along any chaotic one.
    kernel : {"auto", "two-pass", "zigzag"}
        How weights are read and written; ``"auto"`` takes the one that a cost model expects to be
        fastest (`fastdln.backends.cpu.cost_model`), the same for any number of threads. Results are
        equal to rounding.
    network : Network, optional
        Train this network instead of drawing one (`width`, `depth`, `init` and `gain` are left
        out); it is not modified. ``"auto"`` and
        ``"reduced"`` look for its invariant subspaces (`fastdln.reduction.invariant_subspaces`).
    rank_tolerance : float, optional
        For a given network: a direction counts as outside a subspace where its part outside
        exceeds this times the norm of the layer that produced it, in (0, 1). None means
        ``10 √m eps``.
    tolerance : float, optional
        Relative loss at or below which training stops as ``"converged"``, in [0, 1). None means
        ``(10 eps)²`` of the dtype (1.4e-12 in float32, 4.9e-30 in float64): a residual of ten
        units of rounding.
    callback : callable, optional
        Called as ``callback(step, loss)`` a few times a second; may raise to stop.
    resumable : bool
        Whether the result keeps the state that `fastdln.resume` needs: the problem and, with
        momentum, as many elements as the weights have; with Adam twice as many.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError, ValueError
        For arguments out of range, and for a network that does not fit the problem.
    MemoryError
        If the network does not fit in memory; names the bytes.
    """
    watch, config = Stopwatch(), TrainConfig.from_arguments(locals())
    key = seed_key(seed)
    validation.function("callback", callback)
    prepared = prepare(problem, config, network)
    return Run.of(prepared, key, learning_rate, watch).train(callback)
