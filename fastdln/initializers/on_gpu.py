"""Layers drawn on a GPU, equal to the CPU's layers of the same seed to rounding."""

import math
from collections.abc import Iterator

from fastdln.backends.gpu.device import DeviceArray
from fastdln.backends.gpu.launcher import Launcher
from fastdln.kernels.cuda.haar import form_frames, working_bytes
from fastdln.kernels.cuda.random import fill_normals
from fastdln.rng import Stream, stream_id

from .layers import BATCH_BYTES, Draw, first_layer, last_layer


def gaussian_layers(launcher: Launcher, draw: Draw) -> Iterator[DeviceArray]:
    """Yield the layers of a Gaussian network, input first, bit for bit those of the CPU.

    The first layer is small: it is drawn on the CPU, as a NumPy array.

    Parameters
    ----------
    launcher : Launcher
        For the draw's dtype; its GPU is the current one while layers are taken.
    draw : Draw
    """
    yield first_layer(draw)
    for i in range(1, draw.depth):
        yield _gaussian_layer(launcher, draw, i)


def orthogonal_layers(launcher: Launcher, draw: Draw) -> Iterator[DeviceArray]:
    """Yield the layers of an orthogonal network whose hidden widths are equal, input first.

    The last layer is multiplied by the product of the hidden ones, as in `draw_layers`.

    Parameters
    ----------
    launcher, draw
        As for `gaussian_layers`; at least two hidden widths.
    """
    yield first_layer(draw)
    xp, m, count = launcher.xp, draw.widths[1], draw.depth - 2
    last = xp.asarray(last_layer(draw))
    each = working_bytes(m, m, draw.dtype) + m * m * draw.dtype.itemsize
    free = min(BATCH_BYTES, launcher.free_bytes() // 2)
    chunk = max(1, free // each)
    for a in range(0, count, chunk):
        frames = xp.empty((min(chunk, count - a), m, m), draw.dtype)
        stream = stream_id(Stream.HIDDEN_LAYER, a)
        form_frames(launcher, launcher.multiply, xp, draw.key, stream, False, frames)
        for frame in frames:
            last = last @ frame.T
            yield frame * draw.dtype.type(draw.gain)
    yield last


def _gaussian_layer(launcher: Launcher, draw: Draw, i: int) -> DeviceArray:
    rows, columns = draw.shape(i)
    layer = launcher.xp.empty((rows, columns), draw.dtype)
    stream = stream_id(Stream.GAUSSIAN_LAYER, i)
    scale = draw.gain / math.sqrt(rows)
    fill_normals(launcher, draw.key, stream, layer, stream_step=0, step=columns, scale=scale)
    return layer
