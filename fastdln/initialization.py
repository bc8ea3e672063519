"""How networks begin: drawn layer by layer, each layer from a stream of its own."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import check
from .network import Network, hidden_widths
from .random import Stream, seed_key, standard_normal, stream_id

INITS = ("gaussian", "orthogonal", "identity")
# Bytes of Haar matrices drawn as one batch: enough to fill every core, little beside a network.
BATCH_BYTES = 1 << 26


def initialize(
    d_x: int,
    d_y: int,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str = "orthogonal",
    seed: Any = 0,
    dtype: Any = "float64",
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
    init : {"orthogonal", "gaussian", "identity"}
        ``"gaussian"``: entries of the paper's weights are independent N(0, 1).
        ``"orthogonal"``: uniformly distributed (Haar) scaled semi-orthogonal matrices: a p × q
        matrix has the factor √max(p, q), so that every entry has variance 1.
        ``"identity"``: hidden layers are the identity (its leading part where a layer is not
        square, scaled alike), first and last layer are as in ``"orthogonal"``.
    seed : int or what `numpy.random.default_rng` accepts
        One seed is one network, whatever the number of threads; float32 and float64 networks
        of a seed are equal to rounding.
    dtype : {"float64", "float32"}

    Returns
    -------
    Network
        In normalised weights, ``Ŵ_i = W_i / √rows``.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, an unknown `init`, dtype or seed.

    References
    ----------
    Hu, Xiao & Pennington, *Provable Benefit of Orthogonal Initialization in Optimizing Deep
    Linear Networks*, ICLR 2020, section 2 and equation (3).
    """
    widths = full_widths(d_x, d_y, width, depth)
    check.one_of("init", init, INITS)
    dtype = check.float_dtype(dtype)
    return Network.trusted(list(draw_layers(widths, init, seed_key(seed), dtype)))


def full_widths(d_x: Any, d_y: Any, width: Any, depth: Any) -> tuple[int, ...]:
    """Return ``(d_x, m_1, …, m_{L-1}, d_y)``."""
    ends = check.positive_integer("d_x", d_x), check.positive_integer("d_y", d_y)
    if width is None and depth is not None and check.positive_integer("depth", depth) == 1:
        return ends
    return (ends[0], *hidden_widths(width, depth), ends[1])


def draw_layers(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Yield normalised layers, input first; at most a small batch of them exists at a time."""
    if init == "gaussian":
        yield from _gaussian_layers(widths, key, dtype)
    else:
        yield from _orthogonal_layers(widths, init, key, dtype)


def _gaussian_layers(
    widths: tuple[int, ...], key: int, dtype: np.dtype
) -> Iterator[np.ndarray]:
    for i, (columns, rows) in enumerate(zip(widths, widths[1:], strict=False)):
        layer = standard_normal(key, stream_id(Stream.GAUSSIAN_LAYER, i), (rows, columns), dtype)
        layer *= dtype.type(1 / math.sqrt(rows))
        yield layer


def _orthogonal_layers(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Yield the ends as frames and the hidden layers as Haar or identity matrices.

    The last layer is drawn in the coordinates of the first hidden one and carried there by the
    hidden layers' product O: ``Ŵ_L = Z Oᵀ`` is as uniform as Z and as independent of O. So Z
    alone, without O, decides the trajectory, and a reduced run needs no hidden matrix.
    """
    yield first_layer(widths, key, dtype)
    if len(widths) == 2:
        return
    carried = len(set(widths[1:-1])) == 1
    last = last_layer(widths, key, dtype)
    for layer in hidden_layers(widths, init, key, dtype):
        if carried and init != "identity":
            last = last @ layer.T
        yield layer
    yield last


def first_layer(widths: tuple[int, ...], key: int, dtype: np.dtype) -> np.ndarray:
    """Return ``Ŵ_1`` of orthogonal initialisation, shape (widths[1], widths[0])."""
    return _semi_orthogonal(widths[1], widths[0], key, Stream.FIRST_LAYER, 0, dtype)


def last_layer(widths: tuple[int, ...], key: int, dtype: np.dtype) -> np.ndarray:
    """Return Z: ``Ŵ_L`` times the product of the hidden layers, shape (d_y, widths[-2])."""
    return _semi_orthogonal(widths[-1], widths[-2], key, Stream.LAST_LAYER, 0, dtype)


def hidden_layers(
    widths: tuple[int, ...], init: str, key: int, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Yield ``Ŵ_2 … Ŵ_{L-1}``, equal shapes that follow each other drawn as one batch."""
    shapes = list(zip(widths[2:-1], widths[1:-2], strict=True))
    i = 0
    while i < len(shapes):
        rows, columns = shapes[i]
        if init == "identity":
            scale = math.sqrt(max(rows, columns) / rows)
            yield np.asarray(scale * np.eye(rows, columns), dtype=dtype)
            i += 1
            continue
        count = _batch(shapes, i, dtype)
        yield from _semi_orthogonal_batch(
            rows, columns, key, Stream.HIDDEN_LAYER, i, count, dtype
        )
        i += count


def _batch(shapes: list[tuple[int, int]], start: int, dtype: np.dtype) -> int:
    rows, columns = shapes[start]
    most = max(1, BATCH_BYTES // (rows * columns * dtype.itemsize))
    count = 1
    while count < most and start + count < len(shapes) and shapes[start + count] == shapes[start]:
        count += 1
    return count


def _semi_orthogonal(
    rows: int, columns: int, key: int, kind: int, index: int, dtype: np.dtype
) -> np.ndarray:
    return _semi_orthogonal_batch(rows, columns, key, kind, index, 1, dtype)[0]


def _semi_orthogonal_batch(
    rows: int, columns: int, key: int, kind: int, first: int, count: int, dtype: np.dtype
) -> np.ndarray:
    from .haar import haar_batch

    tall = haar_batch(key, kind, first, count, max(rows, columns), min(rows, columns), dtype)
    scale = math.sqrt(max(rows, columns) / rows)
    if scale != 1:
        tall *= dtype.type(scale)
    return tall if rows >= columns else tall.transpose(0, 2, 1)
