"""Products and gradients of a chain of layers, for other people's code: NumPy in and out.

Where weights are on a card, as arrays of CuPy, PyTorch or JAX, so are the results (`gpu.chain`).

The weights are read where they lie, whatever their row lengths; nothing of their size is copied.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from fastdln.kernels.cpu import strided as plain
from fastdln.kernels.cpu.layout import aligned_zeros, pad_rows
from fastdln.kernels.cpu.team import new_meeting
from fastdln.kernels.cpu.tiles import lanes
from fastdln.utils import threads, validation

# Multiply-adds of a call below which starting threads (some 100 µs) costs more than it saves.
TEAM_WORK = 20_000_000


def end_to_end(weights: Sequence[np.ndarray], *, out: np.ndarray | None = None) -> np.ndarray:
    """Return the end-to-end matrix ``M = W_L ··· W_1``.

    Parameters
    ----------
    weights : sequence of ndarray
        ``W_1 … W_L``, input first, of shapes (m_i, m_{i-1}), all float32 or all float64; not
        copied. Fastest where every row is contiguous. Arrays of CuPy, PyTorch or JAX on one card
        are taken, too: C-contiguous, without `out`; M is then an array of their library.
    out : ndarray, optional
        Where to write M: shape (d_y, d), the weights' dtype, C-contiguous, apart from the weights.

    Returns
    -------
    ndarray, shape (d_y, d)

    Raises
    ------
    TypeError
        If a layer is no array of the first one's dtype.
    ValueError
        If there is no layer, a layer is empty, the shapes do not chain, or `out` does not fit.
    """
    weights = _listed(weights)
    if _any_on_a_card(weights):
        return _on_card("end_to_end", out, weights)
    layers = _checked(weights)
    out = _output("out", out, (layers[-1].shape[0], layers[0].shape[1]), layers)
    if len(layers) == 1:
        out[:] = layers[0]
    elif not _tileable(layers):
        _reference_product(layers, out)
    elif out.shape[0] <= out.shape[1]:
        _product_down(layers, out)
    else:
        _product_up(layers, out)
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
        As `end_to_end`, and where X does not fit the first layer.
    """
    weights = _listed(weights)
    if _any_on_a_card([*weights, X]):
        return _on_card("forward", out, weights, X)
    layers = _checked(weights)
    X = _operand("X", X, layers[0].dtype, rows=layers[0].shape[1], of="columns of layer 1")
    outs = _outputs(out, [(w.shape[0], X.shape[1]) for w in layers], [*layers, X])
    for w, result in zip(layers, outs, strict=True):
        # Samples make this a full matrix product, which BLAS does best.
        np.matmul(w, X, out=result)
        X = result
    return outs


def gradients(
    weights: Sequence[np.ndarray], G: np.ndarray, *, out: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Return the gradient of every layer from ``G = ∂ℓ/∂M``.

    That of layer i is ``(W_L···W_{i+1})ᵀ G (W_{i-1}···W_1)ᵀ``.

    Parameters
    ----------
    weights : sequence of ndarray
        As in `end_to_end`.
    G : ndarray, shape (d_y, d)
        Gradient of any loss with respect to the end-to-end matrix, of the weights' dtype.
    out : sequence of ndarray, optional
        One C-contiguous array of each layer's shape, apart from the weights and each other.

    Returns
    -------
    list of ndarray, of the layers' shapes

    Raises
    ------
    TypeError, ValueError
        As `end_to_end`, and where G is not of shape (d_y, d).
    """
    weights = _listed(weights)
    if _any_on_a_card([*weights, G]):
        return _on_card("gradients", out, weights, G)
    layers = _checked(weights)
    shape = (layers[-1].shape[0], layers[0].shape[1])
    G = _operand("G", G, layers[0].dtype, rows=shape[0], of="rows of the last layer")
    if G.shape != shape:
        raise ValueError(f"G must be of shape {shape}, as the end-to-end matrix, not {G.shape}")
    outs = _outputs(out, [w.shape for w in layers], [*layers, G])
    if len(layers) == 1:
        outs[0][:] = G
    elif not _tileable(layers):
        _reference_gradients(layers, G, outs)
    elif shape[0] <= shape[1]:
        _gradients_up(layers, G, outs)
    else:
        _gradients_down(layers, G, outs)
    return outs


class _Tables:
    """Where layers and their products lie, for the kernels.

    Slot l of the products, q rows, holds what meets the columns of layer l; slot L, the rows of
    the last layer.
    """

    def __init__(self, layers: list[np.ndarray], q: int):
        self.dtype, self.lane = layers[0].dtype, lanes(layers[0].dtype)
        self.q, self.q_padded = q, pad_rows(q)
        self.base, places = _located(layers)
        widths = np.array([w.shape[1] for w in layers] + [layers[-1].shape[0]])
        padded = -(-widths // self.lane) * self.lane
        self.layers = np.zeros((len(layers) + 1, 6), dtype=np.int64)
        self.layers[:-1, :4] = places
        self.layers[:, plain.PRODUCT] = self.q_padded * (np.cumsum(padded) - padded)
        self.layers[:, plain.WIDTH] = padded
        self.work = 2 * q * sum(w.size for w in layers)

    def products(self) -> np.ndarray:
        """Return room for the product in every slot."""
        return aligned_zeros(self.q_padded * int(self.layers[:, plain.WIDTH].sum()), self.dtype)

    def edge(self) -> np.ndarray:
        """Return room for any one product."""
        return aligned_zeros(self.q_padded * int(self.layers[:, plain.WIDTH].max()), self.dtype)

    def slot(self, products: np.ndarray, index: int, columns: int) -> np.ndarray:
        """Return slot `index` as a (q, columns) view."""
        start, width = (int(self.layers[index, c]) for c in (plain.PRODUCT, plain.WIDTH))
        rows = products[start : start + self.q * width]
        return rows.reshape(self.q, width)[:, :columns]

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        """Call `kernel` with these arguments on as many threads as the work is worth."""
        team = max(1, min(threads.available(), self.work // TEAM_WORK))
        work = functools.partial(kernel, *arguments)
        if team == 1:
            return work(0, 1, new_meeting())
        with ThreadPoolExecutor(team) as pool:
            return threads.together(pool, team, work)


def _product_down(layers: list[np.ndarray], out: np.ndarray) -> None:
    t = _Tables(layers, len(out))
    products = t.products()
    _suffix_products(t, layers, products, 0)
    out[:] = t.slot(products, 0, out.shape[1])


def _suffix_products(t: _Tables, layers: list[np.ndarray], products: np.ndarray, to: int) -> None:
    """Fill the slots from that of the last layer, which is the layer itself, down to slot `to`."""
    last = len(layers) - 1
    t.slot(products, last, layers[last].shape[1])[:] = layers[last]
    start, width = int(t.layers[last, plain.PRODUCT]), int(t.layers[last, plain.WIDTH])
    t.run(
        plain.products_down, t.base, t.layers[to:last], products, start, width, products,
        t.q_padded, t.lane,
    )  # fmt: skip


def _product_up(layers: list[np.ndarray], out: np.ndarray) -> None:
    t = _Tables(layers, out.shape[1])
    products = t.products()
    _prefix_products(t, layers, products, len(layers))
    out[:] = t.slot(products, len(layers), len(out)).T


def _prefix_products(t: _Tables, layers: list[np.ndarray], products: np.ndarray, to: int) -> None:
    """Fill the slots from that above the first layer, which is its transpose, up to slot `to`."""
    t.slot(products, 1, len(layers[0]))[:] = layers[0].T
    start = int(t.layers[1, plain.PRODUCT])
    t.run(
        plain.products_up, t.base, t.layers[1 : to + 1], products, start, products, t.q_padded,
        t.lane,
    )  # fmt: skip


def _gradients_up(layers: list[np.ndarray], G: np.ndarray, outs: list[np.ndarray]) -> None:
    t = _Tables(layers, len(G))
    products, C, D = t.products(), t.edge(), t.edge()
    _suffix_products(t, layers, products, 1)
    t.slot(C, 0, G.shape[1])[:] = G
    turn = t.run(
        plain.gradients_up, t.base, t.layers[:-1], C, D, products, *_targets(outs), t.q,
        t.q_padded, t.lane,
    )  # fmt: skip
    width, shape = int(t.layers[-2, plain.WIDTH]), outs[-1].shape
    outs[-1][:] = (C, D)[turn][: t.q * width].reshape(t.q, width)[:, : shape[1]]


def _gradients_down(layers: list[np.ndarray], G: np.ndarray, outs: list[np.ndarray]) -> None:
    t = _Tables(layers, G.shape[1])
    prefixes, products, depth = t.products(), t.products(), len(layers)
    _prefix_products(t, layers, prefixes, depth - 1)
    t.slot(products, depth, len(G))[:] = G.T
    start, width = int(t.layers[depth, plain.PRODUCT]), int(t.layers[depth, plain.WIDTH])
    base, slots = _targets(outs)
    t.run(
        plain.gradients_down, t.base, t.layers[1:-1], products, start, width, prefixes, products,
        base, slots[1:], t.q, t.q_padded, t.lane,
    )  # fmt: skip
    outs[0][:] = t.slot(products, 1, len(outs[0])).T


def _targets(outs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    base, slots = _located(outs)
    return base, np.ascontiguousarray(slots)


def _located(arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest array, flat, and (offset from it, rows, columns, row stride) of each."""
    lowest = min(arrays, key=lambda a: a.ctypes.data)
    start, size = lowest.ctypes.data, lowest.itemsize
    places = [
        (
            (a.ctypes.data - start) // size,
            *a.shape,
            a.strides[0] // size if len(a) > 1 else a.shape[1],
        )
        for a in arrays
    ]
    # As ctypes memory, so that read-only layers are of the same type to the kernels, which only
    # read them, and so that the view may reach from one array to the next.
    nbytes = max(
        a.ctypes.data - start + a.strides[0] * (len(a) - 1) + a.shape[1] * size for a in arrays
    )
    flat = np.frombuffer((ctypes.c_char * nbytes).from_address(start), dtype=lowest.dtype)
    return flat, np.array(places, dtype=np.int64)


def _tileable(layers: list[np.ndarray]) -> bool:
    """Whether the kernels can read the layers: contiguous rows, whole numbers apart."""
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return False  # plain Python cannot look outside an array
    size, start = layers[0].itemsize, layers[0].ctypes.data
    return all(
        w.flags.aligned
        and (w.strides[1] == size or w.shape[1] == 1)
        and (w.strides[0] >= w.shape[1] * size or len(w) == 1)
        and w.strides[0] % size == 0
        and (w.ctypes.data - start) % size == 0
        for w in layers
    )


def _reference_product(layers: list[np.ndarray], out: np.ndarray) -> None:
    """Do in NumPy what the kernels cannot: layers of other strides, or JIT switched off."""
    if out.shape[0] <= out.shape[1]:
        product = layers[-1]
        for w in layers[-2::-1]:
            product = product @ w
    else:
        product = layers[0]
        for w in layers[1:]:
            product = w @ product
    out[:] = product


def _reference_gradients(layers: list[np.ndarray], G: np.ndarray, outs: list[np.ndarray]) -> None:
    if G.shape[0] <= G.shape[1]:
        above = [layers[-1]]
        for w in layers[-2:0:-1]:
            above.append(above[-1] @ w)
        for w, out, b in zip(layers, outs, above[::-1], strict=False):
            np.matmul(b.T, G, out=out)
            G = G @ w.T
        outs[-1][:] = G
    else:
        below = [layers[0]]
        for w in layers[1:-1]:
            below.append(w @ below[-1])
        for w, out, a in zip(layers[:0:-1], outs[:0:-1], below[::-1], strict=True):
            np.matmul(G, a.T, out=out)
            G = w.T @ G
        outs[0][:] = G


def _listed(weights: Any) -> list[Any]:
    """Return the layers, each formed once where they are formed when asked for."""
    if not isinstance(weights, Iterable):
        raise TypeError(
            f"weights must be a sequence of layers, not {type(weights).__name__} (of a Network:"
            " its weights)"
        )
    return list(weights)


def _any_on_a_card(arrays: Sequence[Any]) -> bool:
    """Tell whether any array lies on a card, by the protocols; imports nothing."""
    from fastdln.backends.gpu.chain import on_a_card

    return any(not isinstance(array, np.ndarray) and on_a_card(array) for array in arrays)


def _on_card(name: str, out: Any, *arguments: Any) -> Any:
    """Call the function of this name for arrays on a card, which return new arrays."""
    from fastdln.backends.gpu import chain as chain_on_card

    if out is not None:
        raise ValueError("out must be left out for arrays on a card")
    return getattr(chain_on_card, name)(*arguments)


def _checked(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    layers = list(weights)
    if not layers:
        raise ValueError("weights must hold at least one layer, but it is empty")
    for i, w in enumerate(layers, start=1):
        if not isinstance(w, np.ndarray):
            raise TypeError(f"layer {i} must be a NumPy array, not {validation.kind(w)}")
        if w.ndim != 2 or w.size == 0:
            raise ValueError(f"layer {i} must be a non-empty matrix, not of shape {w.shape}")
        validation.float_dtype(w.dtype)
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
        kind = validation.kind_or_dtype(value)
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
        kind = validation.kind_or_dtype(out)
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
    # Checked against the inputs by their address ranges, in one sorted pass: depth may be 10⁵.
    outs = [
        _output(f"out[{i}]", o, s, inputs[:1])
        for i, (o, s) in enumerate(zip(outs, shapes, strict=True))
    ]
    _require_apart(outs, inputs)
    return outs


def _require_apart(outs: list[np.ndarray], inputs: list[np.ndarray]) -> None:
    ranges = [(*np.lib.array_utils.byte_bounds(a), f"out[{i}]") for i, a in enumerate(outs)]
    ranges += [(*np.lib.array_utils.byte_bounds(a), "") for a in inputs]
    furthest, owner = 0, ""
    for begin, end, name in sorted(ranges):
        if begin < furthest and (name or owner):
            raise ValueError(f"{name or owner} overlaps another array, which it would overwrite")
        if end > furthest:
            furthest, owner = end, name
