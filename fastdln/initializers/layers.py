"""How networks begin: drawn layer by layer, each layer from a stream of its own."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastdln.network import Network, hidden_widths
from fastdln.rng import Stream, seed_key, standard_normal, stream_id
from fastdln.utils import memory, validation

INITS = (
    "gaussian",
    "orthogonal",
    "identity",
    "balanced",
    "zero_asymmetric",
    "near_identity",
)
# Bytes of Haar matrices drawn as one batch: enough to fill every core, little beside a network.
BATCH_BYTES = 1 << 26
# Bytes of a Gaussian layer drawn at a time where it is to be copied to its place.
ROWS_BYTES = 1 << 22


def initialize(
    d_x: int,
    d_y: int,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str = "orthogonal",
    seed: Any = 0,
    dtype: Any = "float64",
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
            alike), first and last layer as in ``"orthogonal"``. Reduces as that does.
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
    seed : int or what `numpy.random.default_rng` accepts
        One seed is one network, whatever the number of threads; float32 and float64 networks
        of a seed are equal to rounding.
    dtype : {"float64", "float32"}
    gain : float
        Factor of every layer, greater than 0: scaled orthogonal, scaled Gaussian, and so on.
        A gain changes nothing in whether a network reduces.

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
    dtype = validation.float_dtype(dtype)
    gain = validation.positive_number("gain", gain)
    numbers = sum(m * n for n, m in itertools.pairwise(widths))
    memory.require(
        numbers * dtype.itemsize, memory.available(), f"a network of depth {len(widths) - 1}",
        "reduce width or depth",
    )  # fmt: skip
    return Network.trusted(list(draw_layers(widths, init, seed_key(seed), dtype, gain)))


def check_init(init: Any, widths: tuple[int, ...]) -> None:
    """Raise ValueError for an unknown initialisation, or one that these widths cannot have."""
    validation.one_of("init", init, INITS)
    least = min(widths[0], widths[-1])
    if init == "balanced" and min(widths) < least:
        raise ValueError(
            f"init 'balanced' needs hidden widths of at least min(d_x, d_y) = {least},"
            f" but the narrowest is {min(widths)}"
        )


def full_widths(d_x: Any, d_y: Any, width: Any, depth: Any) -> tuple[int, ...]:
    """Return ``(d_x, m_1, …, m_{L-1}, d_y)``."""
    ends = validation.positive_integer("d_x", d_x), validation.positive_integer("d_y", d_y)
    if width is None and depth is not None and validation.positive_integer("depth", depth) == 1:
        return ends
    return (ends[0], *hidden_widths(width, depth), ends[1])


def draw_layers(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype, gain: float
) -> Iterator[np.ndarray]:
    """Yield normalised layers, input first; at most a small batch of them exists at a time.

    The last layer is drawn in the coordinates of the first hidden one and carried there by the
    product O of orthogonal hidden layers: ``Ŵ_L = Z Oᵀ`` is as uniform as Z and as independent
    of O. So Z alone, without O, decides the trajectory, and a reduced run needs no hidden matrix.
    """
    from fastdln.chain import end_to_end

    yield first_layer(widths, init, key, dtype, gain)
    if len(widths) == 2:
        return
    carried = init == "orthogonal" and len(set(widths[1:-1])) == 1
    last = last_layer(widths, init, key, dtype, gain)
    for layer in hidden_layers(widths, init, key, dtype, gain):
        if carried:
            # Not by BLAS, whose last bits depend on its threads.
            turned = np.ascontiguousarray(last.T / dtype.type(gain))
            last = end_to_end([turned, layer]).T
        yield layer
    yield last


def first_layer(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype, gain: float
) -> np.ndarray:
    """Return ``Ŵ_1``, shape (widths[1], widths[0])."""
    columns, rows = widths[:2]
    if init in ("orthogonal", "identity"):
        return _scaled_frame(rows, columns, key, Stream.FIRST_LAYER, gain, dtype)
    if init == "balanced":
        U, s, Vt = balanced_factors(widths, key, gain)
        top = s[:, None] * Vt if len(widths) > 2 else U @ (s[:, None] * Vt)
        return _leading(top, rows, columns, dtype)
    return _entrywise_layer(widths, 0, init, key, dtype, gain)


def last_layer(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype, gain: float
) -> np.ndarray:
    """Return ``Ŵ_L``, or Z for orthogonal initialisation, shape (d_y, widths[-2])."""
    columns, rows = widths[-2:]
    if init in ("orthogonal", "identity"):
        return _scaled_frame(rows, columns, key, Stream.LAST_LAYER, gain, dtype)
    if init == "balanced":
        U, s, _ = balanced_factors(widths, key, gain)
        return _leading(U * s, rows, columns, dtype)
    if init == "zero_asymmetric":
        return np.zeros((rows, columns), dtype)
    return _entrywise_layer(widths, len(widths) - 2, init, key, dtype, gain)


def hidden_layers(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype, gain: float
) -> Iterator[np.ndarray]:
    """Yield ``Ŵ_2 … Ŵ_{L-1}``; equal Haar matrices that follow each other are one batch."""
    if init == "orthogonal":
        yield from _haar_layers(widths, key, dtype, gain)
        return
    for i in range(1, len(widths) - 2):
        columns, rows = widths[i : i + 2]
        if init == "balanced":
            _, s, _ = balanced_factors(widths, key, gain)
            yield _leading(np.diag(s), rows, columns, dtype)
        elif init == "identity":
            yield _leading(
                _scale(rows, columns, gain) * np.eye(rows, columns), rows, columns, dtype
            )
        else:
            yield _entrywise_layer(widths, i, init, key, dtype, gain)


def balanced_factors(
    widths: tuple[int, ...], key: int, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U, ``gain·Σ^{1/L}`` and Vᵀ of the balanced initialisation's end-to-end matrix."""
    d_x, d_y = widths[0], widths[-1]
    A = standard_normal(key, stream_id(Stream.BALANCED_PRODUCT), (d_y, d_x)) / math.sqrt(d_y)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    depth = len(widths) - 1
    return U, gain * s ** (1 / depth), Vt


def _entrywise_layer(
    widths: tuple[int, ...], i: int, init: str, key: int, dtype: np.dtype, gain: float
) -> np.ndarray:
    """Return layer i of the initialisations whose layers are drawn entry by entry."""
    columns, rows = widths[i : i + 2]
    if init == "zero_asymmetric":
        # A single layer is the last one.
        layer = np.eye(rows, columns) if len(widths) > 2 else np.zeros((rows, columns))
        return np.asarray(gain * layer, dtype=dtype)
    if init == "gaussian":
        return gaussian_layer(widths, i, key, dtype, gain).rows(0, rows)
    layer = standard_normal(key, stream_id(Stream.RESIDUAL_LAYER, i), (rows, columns), dtype)
    # A square Gaussian matrix with entries of variance 1/rows has norm about 2.
    layer *= dtype.type(gain / (2 * (len(widths) - 1) * math.sqrt(rows)))
    np.fill_diagonal(layer, layer.diagonal() + dtype.type(gain))
    return layer


class GaussianLayer(NamedTuple):
    """A Gaussian layer that is drawn where it is wanted, so that no second copy of it exists."""

    shape: tuple[int, int]
    dtype: np.dtype
    scale: float
    key: int
    stream: int

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Return rows begin ≤ i < end."""
        columns = self.shape[1]
        first = begin * columns
        found = standard_normal(
            self.key, self.stream, (end - begin, columns), self.dtype, first=first
        )
        found *= self.dtype.type(self.scale)
        return found

    def write_to(self, out: np.ndarray) -> None:
        """Fill `out`, of this shape and any strides, some rows at a time."""
        rows, columns = self.shape
        each = max(1, ROWS_BYTES // (columns * self.dtype.itemsize))
        for begin in range(0, rows, each):
            end = min(begin + each, rows)
            out[begin:end] = self.rows(begin, end)


def gaussian_layer(
    widths: tuple[int, ...], i: int, key: int, dtype: np.dtype, gain: float
) -> GaussianLayer:
    """Return layer i of the Gaussian initialisation, not drawn yet."""
    columns, rows = widths[i : i + 2]
    stream = stream_id(Stream.GAUSSIAN_LAYER, i)
    return GaussianLayer((rows, columns), dtype, gain / math.sqrt(rows), key, stream)


def _leading(block: np.ndarray, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """Return `block` as the leading part of a matrix of zeros."""
    layer = np.zeros((rows, columns), dtype)
    layer[: block.shape[0], : block.shape[1]] = block
    return layer


def _scale(rows: int, columns: int, gain: float) -> float:
    """Return the norm of a normalised scaled orthogonal layer: √max(p, q) / √rows."""
    return gain * math.sqrt(max(rows, columns) / rows)


def _haar_layers(
    widths: tuple[int, ...], key: int, dtype: np.dtype, gain: float
) -> Iterator[np.ndarray]:
    shapes = list(zip(widths[2:-1], widths[1:-2], strict=True))
    i = 0
    while i < len(shapes):
        count = _batch(shapes, i, dtype)
        yield from _scaled_frames(*shapes[i], key, Stream.HIDDEN_LAYER, i, count, gain, dtype)
        i += count


def _batch(shapes: list[tuple[int, int]], start: int, dtype: np.dtype) -> int:
    rows, columns = shapes[start]
    most = max(1, BATCH_BYTES // (rows * columns * dtype.itemsize))
    count = 1
    while count < most and start + count < len(shapes) and shapes[start + count] == shapes[start]:
        count += 1
    return count


def _scaled_frame(
    rows: int, columns: int, key: int, kind: int, gain: float, dtype: np.dtype
) -> np.ndarray:
    return _scaled_frames(rows, columns, key, kind, 0, 1, gain, dtype)[0]


def _scaled_frames(
    rows: int,
    columns: int,
    key: int,
    kind: int,
    first: int,
    count: int,
    gain: float,
    dtype: np.dtype,
) -> np.ndarray:
    from fastdln.backends.cpu.haar import haar_batch

    tall = haar_batch(key, kind, first, count, max(rows, columns), min(rows, columns), dtype)
    scale = _scale(rows, columns, gain)
    if scale != 1:
        tall *= dtype.type(scale)
    return tall if rows >= columns else tall.transpose(0, 2, 1)
