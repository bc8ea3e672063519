"""Products and gradients of a chain of layers, as functions of arrays, for use in other code.

NumPy weights are read in place, whatever their row strides; nothing of their size is copied. For
weights on a GPU (arrays of CuPy, PyTorch or JAX) the results are arrays of the same library.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastdln.backends.cpu import chain as cpu
from fastdln.backends.gpu import chain as gpu
from fastdln.utils import arrays, validation


def end_to_end(weights: Sequence[np.ndarray], *, out: np.ndarray | None = None) -> np.ndarray:
    """Return the end-to-end matrix ``M = W_L ··· W_1``.

    Parameters
    ----------
    weights : sequence of ndarray
        ``W_1 … W_L``, input first, of shapes (m_i, m_{i-1}), all float32 or all float64; not
        copied. Fastest where every row is contiguous. Also arrays of CuPy, PyTorch or JAX on one
        GPU: C-contiguous, without `out`; M is then an array of their library.
    out : ndarray, optional
        Array to write M to: shape (d_y, d), the weights' dtype, C-contiguous, not overlapping the
        weights.

    Returns
    -------
    ndarray, shape (d_y, d)

    Raises
    ------
    TypeError
        If a layer is not an array of the first one's dtype.
    ValueError
        If there is no layer, a layer is empty, the shapes do not chain, or `out` does not fit.
    """
    weights = _listed(weights)
    if _any_on_gpu(weights):
        _require_no_out(out)
        return gpu.end_to_end(weights)
    layers = _checked(weights)
    out = _output("out", out, (layers[-1].shape[0], layers[0].shape[1]), layers)
    cpu.end_to_end(layers, out)
    return out


def forward(
    weights: Sequence[np.ndarray], X: np.ndarray, *, out: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Return all activations ``[W_1 X, W_2 W_1 X, …, M X]``.

    Parameters
    ----------
    weights : sequence of ndarray
        As in `end_to_end`.
    X : ndarray, shape (d, n)
        One sample in every column, of the weights' dtype.
    out : sequence of ndarray, optional
        One C-contiguous array of shape (m_i, n) for every layer.

    Returns
    -------
    list of ndarray, shapes (m_i, n)

    Raises
    ------
    TypeError, ValueError
        As `end_to_end`, and if X does not fit the first layer.
    """
    weights = _listed(weights)
    if _any_on_gpu([*weights, X]):
        _require_no_out(out)
        return gpu.forward(weights, X)
    layers = _checked(weights)
    X = _operand("X", X, layers[0].dtype, rows=layers[0].shape[1], of="columns of layer 1")
    outs = _outputs(out, [(w.shape[0], X.shape[1]) for w in layers], [*layers, X])
    cpu.forward(layers, X, outs)
    return outs


def gradients(
    weights: Sequence[np.ndarray], G: np.ndarray, *, out: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Return the gradient of every layer from ``G = ∂ℓ/∂M``.

    The gradient of layer i is ``(W_L···W_{i+1})ᵀ G (W_{i-1}···W_1)ᵀ``.

    Parameters
    ----------
    weights : sequence of ndarray
        As in `end_to_end`.
    G : ndarray, shape (d_y, d)
        Gradient of any loss with respect to the end-to-end matrix, of the weights' dtype.
    out : sequence of ndarray, optional
        One C-contiguous array of each layer's shape, overlapping neither the weights nor one
        another.

    Returns
    -------
    list of ndarray, of the layers' shapes

    Raises
    ------
    TypeError, ValueError
        As `end_to_end`, and if G is not of shape (d_y, d).
    """
    weights = _listed(weights)
    if _any_on_gpu([*weights, G]):
        _require_no_out(out)
        return gpu.gradients(weights, G)
    layers = _checked(weights)
    shape = (layers[-1].shape[0], layers[0].shape[1])
    G = _operand("G", G, layers[0].dtype, rows=shape[0], of="rows of the last layer")
    if G.shape != shape:
        raise ValueError(f"G must be of shape {shape}, as the end-to-end matrix, not {G.shape}")
    outs = _outputs(out, [w.shape for w in layers], [*layers, G])
    cpu.gradients(layers, G, outs)
    return outs


def _listed(weights: Any) -> list[Any]:
    """Return the layers as a list, so that an iterator that forms them forms each of them once."""
    if not isinstance(weights, Iterable):
        raise TypeError(
            f"weights must be a sequence of layers, not {type(weights).__name__} (of a Network:"
            " its weights)"
        )
    return list(weights)


def _any_on_gpu(arrays: Sequence[Any]) -> bool:
    """Return whether any array is on a GPU, without importing another array library."""
    return any(not isinstance(array, np.ndarray) and gpu.on_gpu(array) for array in arrays)


def _require_no_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out must be left out for arrays on a GPU")


def _checked(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    layers = list(weights)
    if not layers:
        raise ValueError("weights must hold at least one layer, but it is empty")
    for i, w in enumerate(layers, start=1):
        if not isinstance(w, np.ndarray):
            raise TypeError(f"layer {i} must be a NumPy array, not {validation.kind(w)}")
        if w.ndim != 2 or w.size == 0:
            raise ValueError(f"layer {i} must be a non-empty matrix, not of shape {w.shape}")
        arrays.float_dtype(w.dtype)
        if w.dtype != layers[0].dtype:
            raise TypeError(
                f"weights must share one dtype, but layer {i} is {w.dtype} and layer 1 is"
                f" {layers[0].dtype}"
            )
        if i > 1 and w.shape[1] != layers[i - 2].shape[0]:
            raise ValueError(
                f"layer {i} of shape {w.shape} must have as many columns as layer {i - 1} of"
                f" shape {layers[i - 2].shape} has rows"
            )
    return layers


def _operand(name: str, value: np.ndarray, dtype: np.dtype, rows: int, of: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        kind = arrays.kind_or_dtype(value)
        raise TypeError(f"{name} must be an array of the weights' dtype {dtype}, not {kind}")
    if value.ndim != 2 or value.size == 0 or value.shape[0] != rows:
        raise ValueError(
            f"{name} must be a matrix of {rows} rows, the {of}, not of shape {value.shape}"
        )
    return value


def _output(
    name: str, out: np.ndarray | None, shape: tuple[int, int], inputs: list[np.ndarray]
) -> np.ndarray:
    dtype = inputs[0].dtype
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        kind = arrays.kind_or_dtype(out)
        raise TypeError(f"{name} must be an array of the weights' dtype {dtype}, not {kind}")
    flags = out.flags
    if out.shape != shape or not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise ValueError(
            f"{name} must be writeable, aligned, C-contiguous and of shape {shape}, not {out.shape}"
            f" with strides {out.strides}"
        )
    for i, array in enumerate(inputs, start=1):
        if np.may_share_memory(out, array):
            raise ValueError(f"{name} overlaps input array {i}, which it would overwrite")
    return out


def _outputs(
    out: Sequence[np.ndarray] | None, shapes: list[tuple[int, int]], inputs: list[np.ndarray]
) -> list[np.ndarray]:
    if out is None:
        return [np.empty(shape, inputs[0].dtype) for shape in shapes]
    outs = list(out)
    if len(outs) != len(shapes):
        raise ValueError(f"out must hold {len(shapes)} arrays, one for each layer, not {len(outs)}")
    # Overlap is checked by address ranges, in one sorted pass: depth may be 10⁵.
    outs = [
        _output(f"out[{i}]", o, s, inputs[:1])
        for i, (o, s) in enumerate(zip(outs, shapes, strict=True))
    ]
    _require_disjoint(outs, inputs)
    return outs


def _require_disjoint(outs: list[np.ndarray], inputs: list[np.ndarray]) -> None:
    ranges = [(*np.lib.array_utils.byte_bounds(a), f"out[{i}]") for i, a in enumerate(outs)]
    ranges += [(*np.lib.array_utils.byte_bounds(a), "") for a in inputs]
    furthest, owner = 0, ""
    for begin, end, name in sorted(ranges):
        if begin < furthest and (name or owner):
            raise ValueError(f"{name or owner} overlaps another array, which it would overwrite")
        if end > furthest:
            furthest, owner = end, name
