"""Networks in training on the card: their arrays, and the launch that advances all of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cuda.packing import Packing, pitch, tile, vectors
from fastdln.kernels.cuda.sources import Constants

# Tiles of a layer under way to each thread. Three in flight are 12 KB for 64 threads of an SM,
# about what its share of the memory's bandwidth times latency asks for (an estimate).
STAGES = 4
PARTS, AT_A_TIME = 32, 8  # as in network.cuh
# Blocks' shares of a sum that a thread asks for at once: all, where there are no more.
AT_ONCE = 12
# Counters in one line of the card's cache, which no two networks share.
LINE = 32
# Most rows or columns of M that the kernel carries in registers.
MOST_CARRIED = 32
NETWORK_FIELDS, NUMBER_FIELDS = 8, 5
GOAL, BATCHES, FIRST_BATCH = 3, 6, 7


class Team(NamedTuple):
    """How a network is worked on.

    Attributes
    ----------
    group : int
        Blocks that share it.
    threads : int
        Of each crew of a block.
    parts : int
        Into how many parts a group cuts the terms of every sum; divides `group`.
    crews : int
        1, or 2 in a group: one crew for what is carried of time t, one for what is of t+1. On a
        card two crews have whole warps.
    """

    group: int
    threads: int
    parts: int = 1
    crews: int = 1

    @property
    def columns(self) -> int:
        """Into how many parts a group cuts the outputs of a visit."""
        return self.group // self.parts

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.threads * self.crews

    def own(self, widest: int) -> int:
        """Return the most tiles of outputs that a block has, of so many."""
        return -(-widest // self.columns)


class Motion(NamedTuple):
    """How gradients move one network's weights.

    Attributes
    ----------
    rates, pulls : ndarray, shape (depth,)
        Step size of every layer and, with momentum, its weight decay.
    decay : float
        Without momentum, what weight decay leaves of the weights in one step.
    momentum : float
    """

    rates: np.ndarray
    pulls: np.ndarray
    decay: float
    momentum: float


class Problem(NamedTuple):
    """A regression ``½‖M∘S − T‖² + constant``: S and T of shape (q, d)."""

    scale: np.ndarray
    target: np.ndarray
    constant: float


class Samples(NamedTuple):
    """What steps that take some of the samples need.

    Attributes
    ----------
    rows : ndarray of float64, shape (n, d + q)
        Inputs and outputs of every sample.
    size : int
        Samples of a step.
    """

    rows: np.ndarray
    size: int


class Batch:
    """Networks of one element type, one pair (q, d) and one kind of motion, side by side.

    Parameters
    ----------
    xp : module
        CuPy, or NumPy where the kernel runs on a processor.
    packing : Packing
    motions : sequence of Motion
        One for each network; all with momentum, or none.
    steps : int
        Most steps any network takes.
    tolerance : float
        Relative loss at or below which a network has converged.
    problems : sequence of Problem
        One for each network, or a single one for all; empty where gradients come from outside.
    team : Team
    samples : Samples, optional
        The same for all networks; all samples where it is left out.
    first_loss : float, optional
        To which the tolerance is relative; every network's own first loss where it is left out.
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
        self.rates = xp.asarray(np.concatenate([m.rates for m in motions]).astype(dtype))
        self.pulls = xp.asarray(np.concatenate([m.pulls for m in motions]).astype(dtype))
        qd = packing.q * packing.d
        self.ends = xp.zeros(count * team.group * qd, dtype)
        self.gradients = xp.zeros(count * qd if self.external else 0, dtype)
        self.scale = _flat(xp, [p.scale for p in problems])
        self.target = _flat(xp, [p.target for p in problems])
        rows, self.size = (np.zeros((0, 1)), 0) if samples is None else samples
        self.samples = xp.asarray(np.ascontiguousarray(rows, np.float64))
        self.losses = xp.full(count * (0 if self.external else steps + 1), np.nan)
        self.steps = xp.full(count * team.group, -1, dtype=np.int64)
        # Every launch leaves it zero, as it must find it.
        self.exchange = xp.zeros(count * exchange_size(packing, team), dtype)
        self.meetings = xp.zeros(count * meeting_size(team), np.uint32)
        self._networks = np.zeros((count, NETWORK_FIELDS), np.int64)
        self._networks[:, 0] = packing.first[:-1]
        self._networks[:, 1] = np.diff(packing.first)
        self._networks[:, 2] = np.arange(count) * (0 if self.external else steps + 1)
        self._networks[:, 4] = np.arange(count) if len(problems) > 1 else 0
        self._networks[:, 5] = np.arange(count)
        constants = [p.constant for p in problems] or [0.0]
        self._numbers = np.zeros((count, NUMBER_FIELDS))
        self._numbers[:, 0] = constants
        self._numbers[:, 1] = tolerance
        self._numbers[:, 2] = [m.decay for m in motions]
        self._numbers[:, 3] = [m.momentum for m in motions]
        self._numbers[:, 4] = np.nan if first_loss is None else first_loss

    @property
    def constants(self) -> Constants:
        """The constants that the kernel is compiled for."""
        return kernel_constants(
            self.packing.q, self.packing.d, self.velocity_kept, self.team.group > 1, self.team.crews
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, in bytes."""
        return shared_bytes(self.packing, self.team, self.velocity_kept)

    def advance(
        self,
        launch: Any,
        active: np.ndarray,
        goal: Any,
        seconds: float = 3600.0,
        batches: Sequence[np.ndarray] = (),
    ) -> None:
        """Let the `active` networks take steps up to `goal`, or for about `seconds`.

        Does not wait. `goal` is one number, or one for each of them; with minibatches, `batches`
        has for each an array of indices, shape (steps, size), from the step it is at to its goal.
        ``launch(constants, blocks, threads, shared_bytes, arguments)`` starts the kernel; networks
        that were listed first start first. Groups of blocks keep to `goal` only.
        """
        xp, team = self.xp, self.team
        table = self._networks[active]
        table[:, GOAL] = np.minimum(goal, self.limit)
        indices = np.zeros(0, np.int32)
        if self.size:
            indices = np.concatenate([b.ravel() for b in batches] or [indices]).astype(np.int32)
            ends = np.cumsum([b.size for b in batches])
            table[:, BATCHES] = ends - [b.size for b in batches]
            table[:, FIRST_BATCH] = np.maximum(self.steps_taken()[active], 0)
        self.meetings[:] = 0
        arguments = (
            xp.asarray(table), xp.asarray(self._numbers[active]), self.layers, self.weights,
            self.velocity, self.rates, self.pulls, self.slots, self.ends, self.gradients,
            self.scale, self.target, self.samples, xp.asarray(indices), self.losses, self.steps,
            self.exchange, self.meetings, np.int64(len(self.samples)), np.int32(self.size),
            np.int32(team.group), np.int32(team.parts), np.int32(meeting_size(team)),
            np.int32(self.packing.widest), np.int32(held_tiles(self.packing, team)),
            np.int32(team.own(self.packing.widest)), np.int32(stages(self.packing, team)),
            np.int32(self.nesterov), np.int32(self.external), np.int64(seconds * 1e9),
        )  # fmt: skip
        launch(self.constants, len(table) * team.group, team.block, self.shared_bytes, arguments)

    def layer(self, network: int, index: int) -> Any:
        """Return a layer as a view of the packed weights."""
        return self.packing.view(self.weights, network, index)

    def velocity_of(self, network: int, index: int) -> Any:
        """Return a layer's part of the velocity as a view."""
        return self.packing.view(self.velocity, network, index)

    def steps_taken(self) -> np.ndarray:
        """Return every network's step, -1 before its first evaluation; waits for the card."""
        return to_host(self.steps)[:: self.team.group]

    def recorded(self, network: int, steps: int) -> np.ndarray:
        """Return the losses of a network's steps 0, …, `steps`."""
        start = int(self._networks[network, 2])
        return to_host(self.losses[start : start + steps + 1])

    def losses_at(self, networks: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the losses of some networks at the given step of each."""
        return to_host(self.losses[self.xp.asarray(self._networks[networks, 2] + steps)])

    @property
    def depths(self) -> np.ndarray:
        """Layers of every network."""
        return self._networks[:, 1]

    def end_to_end(self, network: int) -> Any:
        """Return M of a network as its last step left it, float64, shape (q, d), on the card."""
        q, d = self.packing.q, self.packing.d
        start = network * self.team.group * q * d
        return self.ends[start : start + q * d].reshape(q, d).astype(np.float64)

    def stop_where(self, stop: Any) -> None:
        """Let launches from now on leave all networks as they are where the boolean is true."""
        # A network past its goal is left alone.
        self.steps[:] = self.xp.where(stop, np.iinfo(np.int64).max, self.steps)

    def put_gradient(self, network: int, G: Any) -> None:
        """Set ``∂ℓ/∂M`` of a network whose gradients come from outside."""
        size = G.size
        here = slice(network * size, (network + 1) * size)
        self.gradients[here] = self.xp.asarray(G.ravel().astype(self.packing.dtype))


def kernel_constants(q: int, d: int, velocity: bool, grouped: bool, crews: int = 1) -> Constants:
    """Return the constants that one variant of the kernel is compiled for."""
    names = ("Q", "D", "STAGES", "AT_ONCE", "VELOCITY", "GROUPED", "CREWS")
    values = q, d, STAGES, AT_ONCE, int(velocity), int(grouped), crews
    return tuple(zip(names, values, strict=True))


def carried_pitch(packing: Packing) -> int:
    """Return the numbers from one output to the next in room for all that is carried."""
    # Of time t the fewer of rows and columns of M, of time t+1 either.
    return pitch(packing.q, packing.dtype) + pitch(packing.d, packing.dtype)


def exchange_size(packing: Packing, team: Team) -> int:
    """Return the numbers through which the blocks of one network's group hand over products."""
    if team.group == 1:
        return 0
    rooms = 2 + (2 * team.parts if team.parts > 1 else 0)
    return rooms * packing.widest * tile(packing.dtype) * handed(packing)


def handed(packing: Packing) -> int:
    """Return the numbers that blocks hand each other for one output."""
    unit = tile(packing.dtype)
    return unit * (vectors(packing.q, packing.dtype) + vectors(packing.d, packing.dtype))


def held_tiles(packing: Packing, team: Team) -> int:
    """Return how many tiles of products a block has in shared memory: its part, or M."""
    ends = vectors(max(packing.q, packing.d), packing.dtype)
    return max(-(-packing.widest // team.parts), ends)


def shared_bytes(packing: Packing, team: Team, velocity: bool) -> int:
    """Return the shared memory of a block in bytes, as `carve` in zigzag.cu divides it."""
    dtype, q, d = packing.dtype, packing.q, packing.d
    unit, narrow, wide = tile(dtype), pitch(min(q, d), dtype), max(q, d)
    own = team.own(packing.widest) * unit
    products = held_tiles(packing, team) * unit * carried_pitch(packing)
    partial = team.threads * unit * (carried_pitch(packing) + 2)
    minibatch = q * (d + AT_A_TIME) * 8 // dtype.itemsize
    partial = max(partial, -(-minibatch // unit) * unit)
    together = team.group > 1 and team.crews == 1
    numbers = max(products, partial) if together else products + partial
    met = vectors(wide, dtype) * unit if team.group == 1 else 0
    numbers += own * (met + narrow) + wide * narrow
    numbers += stages(packing, team) * (1 + velocity) * unit * team.threads * unit
    return numbers * dtype.itemsize + (PARTS + 1) * 8


def stages(packing: Packing, team: Team) -> int:
    """Return the tiles of weights that a thread has in shared memory.

    With two crews they are those under way and all of two layers: one crew uses a layer while the
    other moves the next.
    """
    return STAGES if team.crews == 1 else STAGES - 1 + 2 * most_tiles(packing, team)


def most_tiles(packing: Packing, team: Team) -> int:
    """Return the most tiles of a layer that one thread goes through."""
    most = 0
    for shape in packing.shapes:
        rows, columns = (vectors(n, packing.dtype) for n in shape)
        for outputs, terms in ((rows, columns), (columns, rows)):
            own, inner = team.own(outputs), math.ceil(terms / team.parts)
            most = max(most, math.ceil(inner / max(1, min(team.threads // own, inner))))
    return most


def meeting_size(team: Team) -> int:
    """Return the numbers of a network's counter at which the blocks of its group meet."""
    return LINE if team.group > 1 else 0


def batch_bytes(packing: Packing, team: Team, velocity: bool, steps: int) -> int:
    """Return the bytes on the card of a `Batch`."""
    count = len(packing.widths)
    qd = packing.q * packing.d
    numbers = packing.size * (1 + velocity) + packing.slot_size
    numbers += 2 * len(packing.layers) + count * (team.group + 1) * qd
    numbers += count * exchange_size(packing, team)
    wide = packing.layers.size + count * (steps + 1 + 2 * qd + team.group + NETWORK_FIELDS)
    waited = 4 * count * meeting_size(team)
    return numbers * packing.dtype.itemsize + 8 * (wide + count * NUMBER_FIELDS) + waited


def fits(packing: Packing, team: Team) -> bool:
    """Return whether the kernel can do these networks: a thread for every vector of outputs."""
    enough = team.own(packing.widest) <= team.threads and team.group % team.parts == 0
    enough = enough and (team.crews == 1 or team.group > 1)
    return enough and max(packing.q, packing.d) <= MOST_CARRIED


def _flat(xp: Any, arrays: Sequence[np.ndarray]) -> Any:
    size = math.prod(arrays[0].shape) if arrays else 0
    out = np.empty((len(arrays), size))
    for row, array in zip(out, arrays, strict=True):
        row[:] = array.ravel()
    return xp.asarray(out.ravel())


def to_host(array: Any) -> np.ndarray:
    """Return a copy of an array as NumPy's."""
    return array.copy() if isinstance(array, np.ndarray) else array.get()
