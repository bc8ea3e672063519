"""Products and gradients of a chain of CuPy, PyTorch or JAX arrays on a GPU, without copies.

The counterparts of `fastdln.chain` for arrays in GPU memory. Work is queued on the caller's current
CUDA stream, and results are arrays of the caller's library.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastdln.utils import validation

from .device import DeviceArray

# DLPack's device type of CUDA memory.
CUDA = 2
# An array of CuPy, PyTorch or JAX: the libraries share no type, only the DLPack protocol.
AnyArray = Any


def on_gpu(array: AnyArray) -> bool:
    """Return whether an array of any library is in the memory of an NVIDIA GPU."""
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) == CUDA
    return hasattr(array, "__cuda_array_interface__")


def end_to_end(weights: Sequence[AnyArray]) -> AnyArray:
    """Return the end-to-end matrix ``M = W_L ··· W_1``.

    Parameters
    ----------
    weights : sequence of arrays on one GPU
        ``W_1 … W_L``, input first, of shapes (m_i, m_{i-1}), all float32 or all float64, each
        C-contiguous.

    Returns
    -------
    array of the weights' library, shape (d_y, d)

    Raises
    ------
    TypeError
        If CPU and GPU arrays are mixed, or dtypes differ.
    ValueError
        If arrays are on different GPUs, not contiguous or empty, or shapes do not chain.
    """
    layers, _ = _checked(weights)
    with _current_stream(weights[0]):
        down = layers[-1].shape[0] <= layers[0].shape[1]
        product = layers[-1] if down else layers[0]
        for w in layers[-2::-1] if down else layers[1:]:
            product = product @ w if down else w @ product
        return _returned(product.copy() if len(layers) == 1 else product, weights[0])


def forward(weights: Sequence[AnyArray], X: AnyArray) -> list[AnyArray]:
    """Return all activations ``[W_1 X, W_2 W_1 X, …, M X]`` for X of shape (d, n).

    Arrays and errors as for `end_to_end`.
    """
    layers, (inputs,) = _checked(weights, X=X)
    _require_shape("X", inputs, (layers[0].shape[1], None))
    with _current_stream(weights[0]):
        activations = []
        for w in layers:
            inputs = w @ inputs
            activations.append(_returned(inputs, weights[0]))
        return activations


def gradients(weights: Sequence[AnyArray], G: AnyArray) -> list[AnyArray]:
    """Return the gradient of every layer from ``G = ∂ℓ/∂M``, shape (d_y, d).

    The gradient of layer i is ``(W_L···W_{i+1})ᵀ G (W_{i-1}···W_1)ᵀ``; products have min(d, d_y)
    rows. Arrays and errors as for `end_to_end`.
    """
    layers, (G,) = _checked(weights, G=G)
    _require_shape("G", G, (layers[-1].shape[0], layers[0].shape[1]))
    with _current_stream(weights[0]):
        if G.shape[0] <= G.shape[1]:
            found = _gradients(layers, G)
        else:
            found = _gradients([w.T for w in layers[::-1]], G.T, transposed=True)[::-1]
        return [_returned(g, weights[0]) for g in found]


def _gradients(
    layers: list[DeviceArray], G: DeviceArray, transposed: bool = False
) -> list[DeviceArray]:
    """Return the C-contiguous gradients of all layers, or their transposes."""
    suffixes = [None, *layers[:0:-1]][: len(layers)]
    for i in range(2, len(layers)):
        suffixes[i] = suffixes[i - 1] @ layers[-i]
    found, C = [], G
    for w, B in zip(layers, suffixes[::-1], strict=True):
        if B is None:  # the last layer
            found.append((C.T if transposed else C).copy())
        else:
            found.append(C.T @ B if transposed else B.T @ C)
            C = C @ w.T
    return found


def _checked(
    weights: Sequence[AnyArray], **others: AnyArray
) -> tuple[list[DeviceArray], list[DeviceArray]]:
    """Return the layers and the other arrays as CuPy arrays that share their memory."""
    if len(weights) == 0:
        raise ValueError("weights must hold at least one layer")
    named = {f"weights[{i}]": w for i, w in enumerate(weights)} | others
    for name, array in named.items():
        if not on_gpu(array):
            raise TypeError(
                f"{name} is a {validation.kind(array)} that is not on a GPU, while others are;"
                " move all arrays to one device"
            )
    arrays = {name: _as_cupy(array) for name, array in named.items()}
    check_arrays(arrays)
    layers = list(arrays.values())[: len(weights)]
    for i, (below, above) in enumerate(zip(layers, layers[1:], strict=False)):
        if above.shape[1] != below.shape[0]:
            raise ValueError(
                f"weights[{i + 1}] has {above.shape[1]} columns, but weights[{i}] has"
                f" {below.shape[0]} rows"
            )
    return layers, list(arrays.values())[len(weights) :]


def check_arrays(arrays: dict[str, DeviceArray]) -> None:
    """Raise unless all arrays are non-empty contiguous matrices of one GPU and float type."""
    first, like = next(iter(arrays.items()))
    for name, a in arrays.items():
        if a.dtype not in (np.dtype("float32"), np.dtype("float64")) or a.dtype != like.dtype:
            raise TypeError(
                f"{name} has dtype {a.dtype}, but all arrays must have that of {first},"
                f" float32 or float64"
            )
        if a.ndim != 2 or a.size == 0:
            raise ValueError(f"{name} must be a non-empty matrix, not of shape {a.shape}")
        if not a.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous, but its strides are {a.strides}")
        if a.device != like.device:
            raise ValueError(f"{name} is on another GPU than {first}")


def _require_shape(name: str, array: DeviceArray, shape: tuple[int, int | None]) -> None:
    if array.shape[0] != shape[0] or shape[1] not in (None, array.shape[1]):
        wanted = f"({shape[0]}, {'n' if shape[1] is None else shape[1]})"
        raise ValueError(f"{name} must have shape {wanted}, not {array.shape}")


def _as_cupy(array: AnyArray) -> DeviceArray:
    import cupy

    if isinstance(array, cupy.ndarray):
        return array
    if _library(array) == "torch":
        array = array.detach()  # a tensor that tracks gradients does not export itself
    if hasattr(array, "__dlpack__"):
        return cupy.from_dlpack(array)
    return cupy.asarray(array)


def _returned(array: DeviceArray, like: AnyArray) -> AnyArray:
    """Return `array` as an array of the library of `like`, without a copy."""
    library = _library(like)
    if library == "torch":
        import torch

        return torch.from_dlpack(array)
    if library.startswith("jax"):
        import jax

        return jax.dlpack.from_dlpack(array)
    return array


def _library(array: AnyArray) -> str:
    return type(array).__module__.split(".")[0]


@contextmanager
def _current_stream(like: AnyArray) -> Iterator[None]:
    """Make CuPy use the GPU of an array and the current stream of the caller's library."""
    with _as_cupy(like).device:
        if _library(like) != "torch":
            yield
            return
        import torch

        with _stream_at(torch.cuda.current_stream(like.device).cuda_stream):
            yield


class _StreamHandle(NamedTuple):
    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def _stream_at(address: int) -> Any:
    """Return CuPy's view (of a type that depends on its version) of another library's stream."""
    import cupy

    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_StreamHandle(address))
    return cupy.cuda.ExternalStream(address)  # before CuPy 14
