"""Initial networks: drawn layer by layer, each layer from a random stream of its own."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastdln.backends.cpu.chain import end_to_end
from fastdln.backends.cpu.haar import haar_batch
from fastdln.config import INITS
from fastdln.network import Network, hidden_widths
from fastdln.rng import Seed, Stream, seed_key, standard_normal, stream_id
from fastdln.utils import arrays, memory, validation
from fastdln.utils.suggestions import suggests_names

# Bytes of Haar matrices drawn as one batch: enough to use every core, few compared with a network.
BATCH_BYTES = 1 << 26
# Bytes of a Gaussian layer drawn at a time where it is copied to its destination.
ROWS_BYTES = 1 << 22


class Draw(NamedTuple):
    """Everything that determines a drawn network.

    Attributes
    ----------
    widths : tuple of int
        ``(d_x, m_1, …, m_{L-1}, d_y)``.
    init : str
        One of `fastdln.config.INITS`.
    key : int
        From `fastdln.rng.seed_key`.
    dtype : numpy.dtype
        float32 or float64.
    gain : float
        Factor of every layer.
    """

    widths: tuple[int, ...]
    init: str
    key: int
    dtype: np.dtype
    gain: float

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.widths) - 1

    def shape(self, i: int) -> tuple[int, int]:
        """Return (rows, columns) of layer i, counted from 0."""
        return self.widths[i + 1], self.widths[i]


@suggests_names
def initialize(
    d_x: int,
    d_y: int,
    *,
    width: int | Sequence[int] | None = None,
    depth: int | None = None,
    init: str = "orthogonal",
    seed: Seed = 0,
    dtype: DTypeLike = "float64",
    gain: float = 1.0,
) -> Network:
    """Draw a deep linear network.

    Parameters
    ----------
    d_x, d_y : int
        Input and output dimension.
    width : int or sequence of int
        Width of all hidden layers, or the list ``(m_1, …, m_{L-1})``. Not used at depth 1.
    depth : int
        Number of layers L ≥ 1; may be left out where `width` is a list.
    init : str
        ``"gaussian"``
            Entries of the paper's weights are independent N(0, 1). Does not reduce.
        ``"orthogonal"``
            Uniformly distributed (Haar) scaled semi-orthogonal matrices: a p × q matrix has the
            factor √max(p, q), so that every entry has variance 1. Equal hidden widths reduce
            exactly to width min(m, d + d_y).
        ``"identity"``
            Hidden layers are the identity (its leading part where a layer is not square, scaled
            alike), first and last layer as in ``"orthogonal"``. Reduces as ``"orthogonal"`` does.
        ``"balanced"``
            Arora, Golowich, Cohen & Hu 2018 (arXiv 1810.02281), procedure 1: a Gaussian
            end-to-end matrix ``A = U Σ Vᵀ`` with entries N(0, 1/d_y) is split into
            ``U Σ^{1/L}, Σ^{1/L}, …, Σ^{1/L} Vᵀ``, so that adjacent layers are balanced,
            ``Ŵ_{i+1}ᵀŴ_{i+1} = Ŵ_i Ŵ_iᵀ``. Widths are at least min(d_x, d_y). Reduces to width
            min(d_x, d_y), for any hidden widths.
        ``"zero_asymmetric"``
            Wu, Wang & Ma 2019 (arXiv 1911.00645): the last layer is zero, all others are the
            identity (its leading part where not square). Equal hidden widths reduce.
        ``"near_identity"``
            Residual layers ``I + E_i`` with ``‖E_i‖₂ ≈ 1/L``, E_i Gaussian: the neighbourhood
            of the identity in which Bartlett, Helmbold & Long 2018 (arXiv 1802.06093) study
            gradient descent. Does not reduce.
    seed : int, or as for `numpy.random.default_rng`
        A seed determines the network for any number of threads; float32 and float64 networks
        of a seed are equal to rounding.
    dtype : {"float64", "float32"}
    gain : float
        Factor of every layer, greater than 0: scaled orthogonal, scaled Gaussian, and so on.
        Whether a network reduces does not depend on it.

    Returns
    -------
    Network
        In normalised weights, ``Ŵ_i = W_i / √rows``.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, an unknown `init`, dtype, seed or gain.
    MemoryError
        If the weights do not fit in memory; names the bytes.

    References
    ----------
    Hu, Xiao & Pennington, *Provable Benefit of Orthogonal Initialization in Optimizing Deep
    Linear Networks*, ICLR 2020, section 2 and equation (3).
    """
    widths = full_widths(d_x, d_y, width, depth)
    check_init(init, widths)
    dtype = arrays.float_dtype(dtype)
    draw = Draw(widths, init, seed_key(seed), dtype, validation.positive_number("gain", gain))
    elements = sum(m * n for n, m in itertools.pairwise(widths))
    memory.require(
        elements * dtype.itemsize,
        memory.available(),
        f"a network of depth {draw.depth}",
        "reduce width or depth",
    )
    return Network.trusted(list(draw_layers(draw)))


def check_init(init: str, widths: tuple[int, ...]) -> None:
    """Raise ValueError for an unknown initialisation, or one that these widths cannot have."""
    validation.one_of("init", init, INITS)
    least = min(widths[0], widths[-1])
    if init == "balanced" and min(widths) < least:
        raise ValueError(
            f"init 'balanced' needs hidden widths of at least min(d_x, d_y) = {least},"
            f" but the narrowest is {min(widths)}"
        )


def full_widths(
    d_x: int, d_y: int, width: int | Sequence[int] | None, depth: int | None
) -> tuple[int, ...]:
    """Return ``(d_x, m_1, …, m_{L-1}, d_y)``."""
    ends = validation.positive_integer("d_x", d_x), validation.positive_integer("d_y", d_y)
    if width is None and depth is not None and validation.positive_integer("depth", depth) == 1:
        return ends
    return (ends[0], *hidden_widths(width, depth), ends[1])


def draw_layers(draw: Draw) -> Iterator[np.ndarray]:
    """Yield normalised layers, input first; at most a small batch of them exists at a time.

    The last layer is drawn in the coordinates of the first hidden space and multiplied by the
    product O of orthogonal hidden layers: ``Ŵ_L = Z Oᵀ`` has the distribution of Z and, like Z, is
    independent of O. Z alone, without O, determines the trajectory, so that a reduced run needs no
    hidden matrix.
    """
    yield first_layer(draw)
    if draw.depth == 1:
        return
    carried = draw.init == "orthogonal" and len(set(draw.widths[1:-1])) == 1
    last = last_layer(draw)
    for layer in hidden_layers(draw):
        if carried:
            # Not by BLAS, whose last bits depend on its number of threads.
            transposed = np.ascontiguousarray(last.T / draw.dtype.type(draw.gain))
            product = np.empty((len(layer), len(last)), draw.dtype)
            end_to_end([transposed, layer], product)
            last = product.T
        yield layer
    yield last


def first_layer(draw: Draw) -> np.ndarray:
    """Return ``Ŵ_1``, shape (widths[1], widths[0])."""
    if draw.init in ("orthogonal", "identity"):
        return _scaled_frames(draw, draw.shape(0), Stream.FIRST_LAYER)[0]
    if draw.init == "balanced":
        U, s, Vt = balanced_factors(draw)
        lower = s[:, None] * Vt if draw.depth > 1 else U @ (s[:, None] * Vt)
        return _zero_extended(lower, draw.shape(0), draw.dtype)
    return _entrywise_layer(draw, 0)


def last_layer(draw: Draw) -> np.ndarray:
    """Return ``Ŵ_L``, or Z for orthogonal initialisation, shape (d_y, widths[-2])."""
    last = draw.depth - 1
    if draw.init in ("orthogonal", "identity"):
        return _scaled_frames(draw, draw.shape(last), Stream.LAST_LAYER)[0]
    if draw.init == "balanced":
        U, s, _ = balanced_factors(draw)
        return _zero_extended(U * s, draw.shape(last), draw.dtype)
    if draw.init == "zero_asymmetric":
        return np.zeros(draw.shape(last), draw.dtype)
    return _entrywise_layer(draw, last)


def hidden_layers(draw: Draw) -> Iterator[np.ndarray]:
    """Yield ``Ŵ_2 … Ŵ_{L-1}``; consecutive Haar matrices of one shape are drawn as a batch."""
    if draw.init == "orthogonal":
        yield from _haar_layers(draw)
        return
    for i in range(1, draw.depth - 1):
        shape = draw.shape(i)
        if draw.init == "balanced":
            _, s, _ = balanced_factors(draw)
            yield _zero_extended(np.diag(s), shape, draw.dtype)
        elif draw.init == "identity":
            yield _zero_extended(_norm(shape, draw.gain) * np.eye(*shape), shape, draw.dtype)
        else:
            yield _entrywise_layer(draw, i)


def equal_hidden_layers(draw: Draw, first: int, count: int) -> np.ndarray:
    """Return hidden layers number first ≤ j < first + count, those that `hidden_layers` yields.

    All hidden widths are equal, and the initialisation is one whose hidden layers are multiples of
    orthogonal matrices: the shape is (count, m, m).
    """
    shape = draw.shape(1)
    if draw.init == "orthogonal":
        return _scaled_frames(draw, shape, Stream.HIDDEN_LAYER, first, count)
    layer = (draw.gain * np.eye(*shape)).astype(draw.dtype)
    return np.broadcast_to(layer, (count, *shape))


def balanced_factors(draw: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U, ``gain·Σ^{1/L}`` and Vᵀ of the balanced initialisation's end-to-end matrix."""
    d_x, d_y = draw.widths[0], draw.widths[-1]
    A = standard_normal(draw.key, stream_id(Stream.BALANCED_PRODUCT), (d_y, d_x)) / math.sqrt(d_y)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    return U, draw.gain * s ** (1 / draw.depth), Vt


def _entrywise_layer(draw: Draw, i: int) -> np.ndarray:
    """Return layer i of an initialisation whose layers are drawn entry by entry."""
    rows, columns = draw.shape(i)
    if draw.init == "zero_asymmetric":
        # At depth 1 the only layer is the last one, which is zero.
        layer = np.eye(rows, columns) if draw.depth > 1 else np.zeros((rows, columns))
        return np.asarray(draw.gain * layer, dtype=draw.dtype)
    if draw.init == "gaussian":
        return gaussian_layer(draw, i).rows(0, rows)
    stream = stream_id(Stream.RESIDUAL_LAYER, i)
    layer = standard_normal(draw.key, stream, (rows, columns), draw.dtype)
    # A square Gaussian matrix with entries of variance 1/rows has norm about 2.
    layer *= draw.dtype.type(draw.gain / (2 * draw.depth * math.sqrt(rows)))
    np.fill_diagonal(layer, layer.diagonal() + draw.dtype.type(draw.gain))
    return layer


class GaussianLayer(NamedTuple):
    """A Gaussian layer drawn directly into its destination: a `backends.interface.DeferredLayer`.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
    scale : float
        Standard deviation of the entries.
    key, stream : int
        Address of the normals, as for `fastdln.rng.standard_normal`.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    scale: float
    key: int
    stream: int

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Return rows begin ≤ i < end."""
        columns = self.shape[1]
        drawn = standard_normal(
            self.key, self.stream, (end - begin, columns), self.dtype, first=begin * columns
        )
        drawn *= self.dtype.type(self.scale)
        return drawn

    def write_to(self, out: np.ndarray) -> None:
        """Fill `out`, of this shape and any strides, some rows at a time."""
        rows, columns = self.shape
        step = max(1, ROWS_BYTES // (columns * self.dtype.itemsize))
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            out[begin:end] = self.rows(begin, end)


def gaussian_layer(draw: Draw, i: int) -> GaussianLayer:
    """Return layer i of the Gaussian initialisation, not drawn yet."""
    rows, columns = draw.shape(i)
    stream = stream_id(Stream.GAUSSIAN_LAYER, i)
    return GaussianLayer((rows, columns), draw.dtype, draw.gain / math.sqrt(rows), draw.key, stream)


def _zero_extended(block: np.ndarray, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Return a matrix of zeros with `block` as its leading part."""
    layer = np.zeros(shape, dtype)
    layer[: block.shape[0], : block.shape[1]] = block
    return layer


def _norm(shape: tuple[int, int], gain: float) -> float:
    """Return the norm of a normalised scaled orthogonal layer: gain · √max(p, q) / √rows."""
    return gain * math.sqrt(max(shape) / shape[0])


def _haar_layers(draw: Draw) -> Iterator[np.ndarray]:
    shapes = [draw.shape(i) for i in range(1, draw.depth - 1)]
    i = 0
    while i < len(shapes):
        count = _equal_shapes(shapes, i, draw.dtype)
        yield from _scaled_frames(draw, shapes[i], Stream.HIDDEN_LAYER, i, count)
        i += count


def _equal_shapes(shapes: list[tuple[int, int]], start: int, dtype: np.dtype) -> int:
    """Return how many shapes from number `start` on are equal, up to BATCH_BYTES of layers."""
    rows, columns = shapes[start]
    most = max(1, BATCH_BYTES // (rows * columns * dtype.itemsize))
    count = 1
    while count < most and start + count < len(shapes) and shapes[start + count] == shapes[start]:
        count += 1
    return count


def _scaled_frames(
    draw: Draw, shape: tuple[int, int], kind: Stream, first: int = 0, count: int = 1
) -> np.ndarray:
    """Return scaled semi-orthogonal layers from streams (kind, first), (kind, first + 1), …."""
    tall = haar_batch(draw.key, kind, first, count, max(shape), min(shape), draw.dtype)
    norm = _norm(shape, draw.gain)
    if norm != 1:
        tall *= draw.dtype.type(norm)
    return tall if shape[0] >= shape[1] else tall.transpose(0, 2, 1)
