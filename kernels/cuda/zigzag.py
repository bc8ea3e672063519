"""Networks in training by the zigzag kernel: their arrays on the GPU and their joint launch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cuda.declarations import NetworkColumn, NetworkConstant, TrainNetworks
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.sources import Constants
from fastdln.kernels.cuda.team import (
    PARTS_AT_ONCE,
    STAGES,
    Team,
    barrier_size,
    exchange_size,
    fits,
    shared_layout,
    stages,
)


class Motion(NamedTuple):
    """Constants of one network's gradient descent.

    Attributes
    ----------
    step_sizes, weight_decays : ndarray, shape (depth,)
        Step size of every layer and, with momentum, its weight decay.
    decay_factor : float
        Without momentum, the factor by which weight decay scales the weights in one step.
    momentum : float
    """

    step_sizes: np.ndarray
    weight_decays: np.ndarray
    decay_factor: float
    momentum: float


class Problem(NamedTuple):
    """A regression ``½‖M∘S − T‖² + constant``: S and T of shape (q, d)."""

    scale: np.ndarray
    target: np.ndarray
    constant: float


class Samples(NamedTuple):
    """The samples from which minibatches are taken.

    Attributes
    ----------
    rows : ndarray of float64, shape (n, d + q)
        Inputs and outputs of every sample.
    size : int
        Samples per minibatch.
    """

    rows: np.ndarray
    size: int


class Batch:
    """Networks of one dtype and one pair (q, d), all with or all without momentum, in one batch.

    Parameters
    ----------
    xp : module
        CuPy, or NumPy where the kernel runs on the CPU.
    packing : Packing
    motions : sequence of Motion
        One per network; all with momentum, or none.
    steps : int
        Maximum number of steps of any network.
    tolerance : float
        Relative loss at or below which a network has converged.
    problems : sequence of Problem
        One per network, or a single one for all; empty if the caller sets gradients.
    team : Team
    nesterov : bool
    samples : Samples, optional
        Samples of the minibatches of all networks; by default steps are full-batch.
    first_loss : float, optional
        Loss to which the tolerance is relative; by default every network's own first loss.

    Raises
    ------
    ValueError
        If the team has too few threads for these networks.
    """

    def __init__(
        self,
        xp: Any,
        packing: Packing,
        motions: Sequence[Motion],
        *,
        steps: int,
        tolerance: float,
        problems: Sequence[Problem],
        team: Team,
        nesterov: bool = False,
        samples: Samples | None = None,
        first_loss: float | None = None,
    ):
        count, dtype = len(packing.widths), packing.dtype
        if not fits(packing, team):
            raise ValueError(f"{team} cannot carry {packing.widest} vectors of outputs")
        self.xp, self.packing, self.team = xp, packing, team
        self.velocity_kept = motions[0].momentum > 0
        self.external = not problems
        self.nesterov = nesterov
        self.limit = steps
        self.weights = xp.zeros(packing.size, dtype)
        self.velocity = xp.zeros(packing.size if self.velocity_kept else 0, dtype)
        self.slots = xp.zeros(packing.slot_size, dtype)
        self.layers = xp.asarray(packing.layers)
        self.step_sizes, self.weight_decays = (
            xp.asarray(np.concatenate(of_networks).astype(dtype))
            for of_networks in ([m.step_sizes for m in motions], [m.weight_decays for m in motions])
        )
        qd = packing.q * packing.d
        self.ends = xp.zeros(count * team.group * qd, dtype)
        self.gradients = xp.zeros(count * qd if self.external else 0, dtype)
        self.scale = _flat(xp, [p.scale for p in problems])
        self.target = _flat(xp, [p.target for p in problems])
        rows, self.size = (np.zeros((0, 1)), 0) if samples is None else samples
        self.samples = xp.asarray(np.ascontiguousarray(rows, np.float64))
        self.losses = xp.full(count * (0 if self.external else steps + 1), np.nan)
        self.steps = xp.full(count * team.group, -1, dtype=np.int64)
        # The exchange must be zero at the start of a launch; every launch ends by resetting it.
        self.exchange = xp.zeros(count * exchange_size(packing, team), dtype)
        self.barriers = xp.zeros(count * barrier_size(team), np.uint32)
        self._shared = shared_layout(packing, team, self.velocity_kept)
        self._networks = self._network_table(len(problems))
        self._constants = _constant_table(motions, problems, tolerance, first_loss)

    def _network_table(self, problems: int) -> np.ndarray:
        """Return the table of networks; goals and minibatches are filled in for each launch."""
        first = self.packing.first
        index = np.arange(len(first) - 1)
        table = np.zeros((len(index), len(NetworkColumn)), np.int64)
        table[:, NetworkColumn.LAYERS] = first[:-1]
        table[:, NetworkColumn.DEPTH] = np.diff(first)
        table[:, NetworkColumn.LOSSES] = index * (0 if self.external else self.limit + 1)
        table[:, NetworkColumn.PROBLEM] = index if problems > 1 else 0
        table[:, NetworkColumn.STATE] = index
        return table

    @property
    def constants(self) -> Constants:
        """The compile-time constants of the kernel."""
        return kernel_constants(
            self.packing.q,
            self.packing.d,
            self.velocity_kept,
            self.team.group > 1,
            self.team.warp_groups,
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, in bytes."""
        return self._shared.size

    def advance(
        self,
        launch: Any,
        active: np.ndarray,
        goal: Any,
        seconds: float = 3600.0,
        batches: Sequence[np.ndarray] = (),
    ) -> None:
        """Start a launch in which the `active` networks step to `goal`, or for about `seconds`.

        Asynchronous. `goal` is one step number, or one per active network. With minibatches,
        `batches` has one array of indices per active network, shape (steps, size), for the steps
        from its current one to its goal. ``launch(constants, blocks, threads, shared_bytes,
        parameters)`` starts the kernel; networks start in the order of `active`. Groups of blocks
        ignore `seconds`.
        """
        team = self.team
        table = self._networks[active]
        table[:, NetworkColumn.GOAL] = np.minimum(goal, self.limit)
        indices = np.zeros(0, np.int32)
        if self.size:
            indices = np.concatenate([b.ravel() for b in batches] or [indices]).astype(np.int32)
            ends = np.cumsum([b.size for b in batches])
            table[:, NetworkColumn.BATCHES] = ends - [b.size for b in batches]
            table[:, NetworkColumn.FIRST_BATCH] = np.maximum(self.steps_taken()[active], 0)
        self.barriers[:] = 0
        parameters = self._parameters(table, self._constants[active], indices, seconds)
        launch(self.constants, len(table) * team.group, team.block, self.shared_bytes, parameters)

    def _parameters(
        self, networks: np.ndarray, constants: np.ndarray, indices: np.ndarray, seconds: float
    ) -> TrainNetworks:
        xp, packing, team = self.xp, self.packing, self.team
        return TrainNetworks(
            networks=xp.asarray(networks),
            constants=xp.asarray(constants),
            layers=self.layers,
            weights=self.weights,
            velocity=self.velocity,
            step_sizes=self.step_sizes,
            weight_decays=self.weight_decays,
            slots=self.slots,
            end_to_end=self.ends,
            gradients=self.gradients,
            scale=self.scale,
            target=self.target,
            samples=self.samples,
            batches=xp.asarray(indices),
            losses=self.losses,
            steps=self.steps,
            exchange=self.exchange,
            barriers=self.barriers,
            sample_count=len(self.samples),
            nanoseconds=int(seconds * 1e9),
            batch_size=self.size,
            group=team.group,
            parts=team.parts,
            barrier_stride=barrier_size(team),
            widest=packing.widest,
            stages=stages(packing, team),
            nesterov=self.nesterov,
            external=self.external,
            shared=self._shared,
        )

    def layer(self, network: int, index: int) -> Any:
        """Return a layer as a view of the packed weights."""
        return self.packing.view(self.weights, network, index)

    def velocity_of(self, network: int, index: int) -> Any:
        """Return a layer's velocity as a view."""
        return self.packing.view(self.velocity, network, index)

    def steps_taken(self) -> np.ndarray:
        """Wait for the GPU; return every network's step, -1 before its first evaluation."""
        return to_host(self.steps)[:: self.team.group]

    def recorded(self, network: int, steps: int) -> np.ndarray:
        """Return the losses of a network's steps 0, …, `steps`."""
        start = int(self._networks[network, NetworkColumn.LOSSES])
        return to_host(self.losses[start : start + steps + 1])

    def losses_at(self, networks: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the losses of the given networks, each at its own given step."""
        places = self._networks[networks, NetworkColumn.LOSSES] + steps
        return to_host(self.losses[self.xp.asarray(places)])

    @property
    def depths(self) -> np.ndarray:
        """Number of layers of every network."""
        return self._networks[:, NetworkColumn.DEPTH]

    def end_to_end(self, network: int) -> Any:
        """Return M of a network after its last step, float64, shape (q, d), on the GPU."""
        q, d = self.packing.q, self.packing.d
        start = network * self.team.group * q * d
        return self.ends[start : start + q * d].reshape(q, d).astype(np.float64)

    def stop_where(self, stop: Any) -> None:
        """Make launches from now on change no network if the boolean `stop` is true."""
        # A network past its goal is not advanced.
        self.steps[:] = self.xp.where(stop, np.iinfo(np.int64).max, self.steps)

    def put_gradient(self, network: int, G: Any) -> None:
        """Set ``∂ℓ/∂M`` of a network whose gradients the kernel does not evaluate."""
        size = G.size
        here = slice(network * size, (network + 1) * size)
        self.gradients[here] = self.xp.asarray(G.ravel().astype(self.packing.dtype))


def kernel_constants(
    q: int, d: int, velocity: bool, grouped: bool, warp_groups: int = 1
) -> Constants:
    """Return the compile-time constants of one variant of the kernel."""
    return (
        ("Q", q),
        ("D", d),
        ("STAGES", STAGES),
        ("PARTS_AT_ONCE", PARTS_AT_ONCE),
        ("VELOCITY", int(velocity)),
        ("GROUPED", int(grouped)),
        ("WARP_GROUPS", warp_groups),
    )


def batch_bytes(packing: Packing, team: Team, velocity: bool, steps: int) -> int:
    """Return the bytes on the GPU of a `Batch`."""
    count = len(packing.widths)
    qd = packing.q * packing.d
    elements = packing.size * (1 + velocity) + packing.slot_size
    elements += 2 * len(packing.layers) + count * (team.group + 1) * qd
    elements += count * exchange_size(packing, team)
    tables = len(NetworkColumn) + len(NetworkConstant)
    wide = packing.layers.size + count * (steps + 1 + 2 * qd + team.group + tables)
    return elements * packing.dtype.itemsize + 8 * wide + 4 * count * barrier_size(team)


def _constant_table(
    motions: Sequence[Motion],
    problems: Sequence[Problem],
    tolerance: float,
    first_loss: float | None,
) -> np.ndarray:
    table = np.zeros((len(motions), len(NetworkConstant)))
    table[:, NetworkConstant.CONSTANT] = [p.constant for p in problems] or [0.0]
    table[:, NetworkConstant.TOLERANCE] = tolerance
    table[:, NetworkConstant.DECAY] = [m.decay_factor for m in motions]
    table[:, NetworkConstant.MOMENTUM] = [m.momentum for m in motions]
    table[:, NetworkConstant.FIRST_LOSS] = np.nan if first_loss is None else first_loss
    return table


def _flat(xp: Any, arrays: Sequence[np.ndarray]) -> Any:
    size = math.prod(arrays[0].shape) if arrays else 0
    out = np.empty((len(arrays), size))
    for row, array in zip(out, arrays, strict=True):
        row[:] = array.ravel()
    return xp.asarray(out.ravel())


def to_host(array: Any) -> np.ndarray:
    """Return a copy of an array as a NumPy array."""
    return array.copy() if isinstance(array, np.ndarray) else array.get()
