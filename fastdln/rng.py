"""Addressable random numbers: every normal has an address (key, stream, position).

A seed is hashed to a 64-bit key once. Each layer, frame and batch member then reads a stream of
its own, so its numbers depend neither on threads, nor on the batch, nor on earlier draws. The
addresses and values below determine the network of a seed and never change in later versions.
"""

import enum
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastdln.kernels.cpu import random as kernels
from fastdln.utils import arrays, threads, validation

Seed = (
    None
    | int
    | Sequence
    | np.ndarray
    | np.random.SeedSequence
    | np.random.BitGenerator
    | np.random.Generator
    | np.random.RandomState
)

INDEX_BITS = 56
# Normals per chunk of work: about 0.4 ms, several times the cost of handing it to a thread. Even,
# so that every chunk starts with a whole pair.
CHUNK = 1 << 18
# Numbers that a process draws by NumPy before it loads the kernel: some milliseconds' worth. A call
# takes as long as CALL numbers more.
FEW, CALL = 1 << 17, 2500


class Stream(enum.IntEnum):
    """Purpose of a stream of random numbers: the top eight bits of its id."""

    DATA_INPUT = 1
    DATA_TARGET = 2
    GAUSSIAN_LAYER = 3
    FIRST_LAYER = 4
    LAST_LAYER = 5
    HIDDEN_LAYER = 6
    HAAR = 7
    BALANCED_PRODUCT = 8
    RESIDUAL_LAYER = 9
    MINIBATCH = 10


def stream_id(kind: int, index: int = 0) -> int:
    """Return the 64-bit id of stream `index`, below 2**56, of a kind below 256."""
    if not 0 <= kind < 256:
        raise ValueError(f"kind must be from 0 to 255, not {kind}")
    if not 0 <= index < 1 << INDEX_BITS:
        raise ValueError(f"index must be from 0 to 2**{INDEX_BITS} - 1, not {index}")
    return int(kind) << INDEX_BITS | int(index)


def seed_key(seed: Seed = None) -> int:
    """Return the 64-bit key of a seed.

    Parameters
    ----------
    seed : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        As for `numpy.random.default_rng`. None takes fresh entropy from the system. A
        generator supplies raw words, so that two calls give two keys.

    Returns
    -------
    int
        From 0 to 2**64 - 1. Integers, sequences and SeedSequences are hashed by
        `numpy.random.SeedSequence.generate_state`, which NumPy guarantees never to change.

    Raises
    ------
    TypeError
        For anything else, such as a float, a bool or a string.
    ValueError
        For a negative integer.
    """
    if isinstance(seed, np.random.Generator):
        seed = seed.bit_generator
    if isinstance(seed, np.random.RandomState):
        return int.from_bytes(seed.bytes(8), "little")
    if isinstance(seed, np.random.BitGenerator):
        # Two words: MT19937's have 32 bits.
        seed = [int(seed.random_raw()) for _ in range(2)]
    if not isinstance(seed, np.random.SeedSequence):
        seed = np.random.SeedSequence(None if seed is None else _entropy(seed))
    return int(seed.generate_state(1, np.uint64)[0])


def _entropy(seed: object) -> int | list[Any]:
    """Return the entropy of a SeedSequence: integers, in lists nested as in the seed."""
    if isinstance(seed, bool | np.bool_):
        raise TypeError(f"seed must be a non-negative integer or another of {_ALLOWED}, not {seed}")
    if isinstance(seed, numbers.Integral):
        if seed < 0:
            raise ValueError(f"seed must not be negative, but {int(seed)} was given")
        return int(seed)
    if isinstance(seed, np.ndarray) or (isinstance(seed, Sequence) and not isinstance(seed, _TEXT)):
        return [_entropy(item) for item in seed]
    raise TypeError(f"seed must be one of {_ALLOWED}, not {seed!r} of type {type(seed).__name__}")


_TEXT = (str, bytes, bytearray)
_ALLOWED = (
    "None, a non-negative integer, a sequence of these, SeedSequence, BitGenerator, Generator,"
    " RandomState"
)


def standard_normal(
    key: int,
    stream: int,
    shape: int | tuple[int, ...],
    dtype: DTypeLike = "float64",
    out: np.ndarray | None = None,
    first: int = 0,
) -> np.ndarray:
    """Return normals number `first`, `first` + 1, ... of a stream, in C order.

    Parameters
    ----------
    key, stream : int
        From `seed_key` and `stream_id`.
    shape : int or tuple of int
        Shape of the result.
    dtype : {"float64", "float32"}
        The float32 numbers are the float64 ones rounded.
    out : ndarray, optional
        C-contiguous array of this shape and dtype to fill and return.
    first : int
        Position in the stream of the first number.

    Returns
    -------
    ndarray
        The same for any number of threads.
    """
    out = result_array((shape,) if isinstance(shape, int) else tuple(shape), dtype, out)
    flat = out.reshape(-1)
    k, s = np.uint64(key), np.uint64(stream)
    if _few.holds(flat.size):
        kernels.fill_few_normals(k, s, np.uint64(first), flat)
        return out
    threads.spread(
        lambda a, b: kernels.fill_normals(k, s, np.uint64(first + a), flat[a:b]),
        _chunks(flat.size, CHUNK),
    )
    return out


class _FewNumbers:
    """Whether this process has drawn so few numbers that compiling or loading a kernel costs more.

    A run of a small network draws fewer than that altogether. Threads may count too few.
    """

    def __init__(self) -> None:
        self._left = FEW

    def holds(self, count: int) -> bool:
        """Return whether `count` numbers more are few, and count them if so."""
        self._left = max(self._left - CALL - count, 0)
        return self._left > 0


_few = _FewNumbers()


def result_array(shape: tuple[int, ...], dtype: DTypeLike, out: np.ndarray | None) -> np.ndarray:
    """Return a new array, or `out` when it is a writable C-contiguous array of shape and dtype."""
    dtype = arrays.float_dtype(dtype)
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {validation.kind(out)}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, not {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writable")
    return out


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive chunks of 0, ..., total - 1."""
    for a in range(0, total, size):
        yield a, min(a + size, total)
