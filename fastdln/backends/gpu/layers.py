"""Networks drawn on the card: the layers of the CPU for the same seed, to rounding."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastdln.initializers.layers import BATCH_BYTES, first_layer, last_layer
from fastdln.kernels.cuda.haar import form_frames, working_bytes
from fastdln.kernels.cuda.random import fill_normals
from fastdln.reduction.initial_layers import Draw, Start, start_dense, start_drawn
from fastdln.reduction.plan import Plan
from fastdln.rng import Stream, stream_id


def start_on_card(launcher: Any, draw: Draw, plan: Plan, basis: np.ndarray) -> Start:
    """Start from a drawn network, its layers drawn on the card where that pays.

    Hidden Gaussian layers, bit for bit those of the CPU, and hidden Haar matrices of equal width
    are drawn on the card. First layers, reduced networks and other initialisations are small or
    cheap, and come from the CPU.

    Parameters
    ----------
    launcher : Launcher
        For the draw's dtype; its card is the current one when the layers are taken.
    draw, plan, basis
        As for `fastdln.reduction.initial_layers.start_drawn`.
    """
    hidden = draw.widths[1:-1]
    wide = plan.method == "dense" and len(hidden) > 1
    if wide and draw.init == "gaussian":
        return start_dense(_gaussian_layers(launcher, draw), basis)
    if wide and draw.init == "orthogonal" and len(set(hidden)) == 1:
        return start_dense(_orthogonal_layers(launcher, draw), basis)
    return start_drawn(draw, plan, basis)


def drawing_bytes(widths: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the most bytes on a card that a network takes beside itself while it is drawn.

    They are those of one layer at a time: an orthogonal one is a frame, what forms it, and what is
    made of it.
    """
    m = max(widths[1:-1], default=1)
    frame = working_bytes(m, m, dtype) + 2 * m * m * dtype.itemsize
    first = widths[0] * widths[1] * dtype.itemsize
    return max(frame, first)


def _gaussian_layers(launcher: Any, draw: Draw) -> Iterator[Any]:
    yield first_layer(*draw)
    for i in range(1, len(draw.widths) - 1):
        yield _gaussian_layer(launcher, draw, i)


def _gaussian_layer(launcher: Any, draw: Draw, i: int) -> Any:
    columns, rows = draw.widths[i : i + 2]
    layer = launcher.xp.empty((rows, columns), draw.dtype)
    stream = stream_id(Stream.GAUSSIAN_LAYER, i)
    scale = draw.gain / math.sqrt(rows)
    fill_normals(launcher, draw.key, stream, layer, stream_step=0, step=columns, scale=scale)
    return layer


def _orthogonal_layers(launcher: Any, draw: Draw) -> Iterator[Any]:
    """Yield all layers, the last one carried through the hidden ones as `draw_layers` does."""
    yield first_layer(*draw)
    xp, m, count = launcher.xp, draw.widths[1], len(draw.widths) - 3
    last = xp.asarray(last_layer(*draw))
    each = working_bytes(m, m, draw.dtype) + m * m * draw.dtype.itemsize
    room = min(BATCH_BYTES, launcher.free_bytes() // 2)
    piece = max(1, room // each)
    for a in range(0, count, piece):
        frames = xp.empty((min(piece, count - a), m, m), draw.dtype)
        stream = stream_id(Stream.HIDDEN_LAYER, a)
        form_frames(launcher, launcher.multiply, xp, draw.key, stream, False, frames)
        for frame in frames:
            last = last @ frame.T
            yield frame * draw.dtype.type(draw.gain)
    yield last
