"""A deep linear network: its normalised weights, input first."""

import contextlib
import itertools
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from fastdln.utils import arrays, validation

# Arrays beside the layers that `fastdln.TrainResult.save` keeps: its attributes of these names.
RUN_ARRAYS = ("loss", "learning_rate", "status", "seconds")


class Network:
    """A deep linear network ``f(x) = Ŵ_L ··· Ŵ_1 x`` in normalised weights.

    The normalised weights are the paper's ``W_i`` divided by the square root of the layer's
    number of rows, so that the paper's factor α is folded in and never formed
    (Hu, Xiao & Pennington 2020, section 2).

    Parameters
    ----------
    weights : sequence of array_like
        ``Ŵ_1 … Ŵ_L``, input first; layer i has as many columns as layer i−1 has rows. Integers
        are converted to float64; otherwise all layers share one of float32 and float64.

    Raises
    ------
    TypeError
        If a layer is neither of real numbers nor of the other layers' dtype.
    ValueError
        If there is no layer, a layer is empty, not a matrix or not finite, or the chain of
        shapes is broken.
    """

    def __init__(self, weights: Sequence[ArrayLike]):
        layers = [np.asarray(w) for w in weights]
        if not layers:
            raise ValueError("weights must hold at least one layer, but it is empty")
        self.weights: Sequence[np.ndarray] = _checked(layers)

    @classmethod
    def trusted(cls, weights: Sequence[np.ndarray]) -> "Network":
        """Wrap weights without checking them; the sequence may form layers on access."""
        network = cls.__new__(cls)
        network.weights = weights
        return network

    def __repr__(self) -> str:
        shape = f"d_x={self.d_x}, d_y={self.d_y}, depth={self.depth}"
        return f"Network({shape}, widths={_short(self.widths)}, dtype={self.dtype})"

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.weights)

    @property
    def d_x(self) -> int:
        """Input dimension."""
        return self.shapes[0][1]

    @property
    def d_y(self) -> int:
        """Output dimension."""
        return self.shapes[-1][0]

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths ``(m_1, …, m_{L-1})``."""
        return tuple(rows for rows, _ in self.shapes[:-1])

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape of every layer."""
        known = getattr(self.weights, "shapes", None)
        return known if known is not None else tuple(w.shape for w in self.weights)

    @property
    def dtype(self) -> np.dtype:
        """The weights' dtype, float32 or float64."""
        known = getattr(self.weights, "dtype", None)
        return known if known is not None else self.weights[0].dtype

    @property
    def layer_scales(self) -> np.ndarray:
        """``√rows`` of every layer, float64: ``W_i = layer_scales[i] * weights[i]``."""
        return np.sqrt([rows for rows, _ in self.shapes])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to an ``.npz`` archive, one layer in memory at a time.

        Parameters
        ----------
        path : path-like
            Written whole or not at all: an existing file stays until the new one is complete.
        """
        write_archive(path, self.weights, {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Network":
        """Read a network that `save` or `TrainResult.save` wrote, checking it as any given network.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it holds something else, or weights that make no network.
        """
        with open(path, "rb") as file:
            layers = _read_layers(file)
        if layers is None:
            raise ValueError(f"{path} does not hold a network that Network.save wrote")
        return cls(layers)

    def end_to_end(self) -> np.ndarray:
        """Return the end-to-end matrix ``M = Ŵ_L ··· Ŵ_1``, shape (d_y, d_x).

        That of a reduced run comes from the narrow network that was trained: it takes milliseconds,
        and is the product of the layers to rounding (of a given network, to its rank tolerance).
        """
        if self._products is not None:
            return self._products.end_to_end().astype(self.dtype, copy=False)
        if self.d_y <= self.d_x:
            return self.suffix_product(0)
        return self.prefix_product(self.depth)

    def suffix_product(self, i: int) -> np.ndarray:
        """Return the product of the last layers, ``B_i = Ŵ_L ··· Ŵ_{i+1}``.

        Layer i's gradient is ``B_iᵀ G A_{i-1}ᵀ`` for ``G = ∂ℓ/∂M``. For a reduced run, B_i comes
        from the narrow network; no layer is formed.

        Parameters
        ----------
        i : int
            From 0, for M, to L, for the identity.

        Returns
        -------
        ndarray, shape (d_y, m_i)
            Of the weights' dtype; m_0 is d_x, and m_L is d_y.

        Raises
        ------
        TypeError, ValueError
            If `i` is not a whole number from 0 to L.
        """
        i = self._boundary(i)
        if i == self.depth:
            return np.eye(self.d_y, dtype=self.dtype)
        if self._products is not None:
            found = self._products.suffix(i) if i else self._products.end_to_end()
            return found.astype(self.dtype, copy=False)
        product = self.weights[-1]
        for index in range(self.depth - 2, i - 1, -1):
            product = product @ self.weights[index]
        return np.array(product)

    def prefix_product(self, i: int, X: ArrayLike | None = None) -> np.ndarray:
        """Return the product of the first layers, ``A_i = Ŵ_i ··· Ŵ_1``, or ``A_i X``.

        For a reduced run, ``A_i X`` comes from the narrow network where X lies in the span of the
        problem's inputs, as the inputs themselves do. Otherwise the part of X outside the span,
        which training does not touch, is multiplied by layer after layer, none of which is formed.

        Parameters
        ----------
        i : int
            From 0, for the identity, to L, for M.
        X : array_like, shape (d_x, n), optional
            One input in every column: ``A_i X`` is their activations after layer i.

        Returns
        -------
        ndarray, shape (m_i, d_x) or (m_i, n)
            Of the weights' dtype; m_0 is d_x, and m_L is d_y.

        Raises
        ------
        TypeError, ValueError
            If `i` is not a whole number from 0 to L, or X not a finite matrix of d_x rows.
        """
        i = self._boundary(i)
        X = None if X is None else self._inputs(X)
        if i == 0:
            product = np.eye(self.d_x) if X is None else X
        elif self._products is None:
            first = self.weights[0]
            product = first if X is None else first @ X.astype(self.dtype)
            for index in range(1, i):
                product = self.weights[index] @ product
        elif i == self.depth:
            product = self._products.end_to_end()
            product = product if X is None else product @ X
        else:
            product = self._products.prefix(i, X)
        return np.array(product, dtype=self.dtype)

    def singular_values(self) -> np.ndarray:
        """Return the singular values of M, largest first, shape (min(d_y, d_x),).

        As `end_to_end`, milliseconds for a reduced run of any width.

        Raises
        ------
        ValueError
            If M is not finite, as it may be after a run that diverged.
        """
        M = self.end_to_end()
        if not np.isfinite(M).all():
            raise ValueError("the end-to-end matrix is not finite and has no singular values")
        return np.linalg.svd(M, compute_uv=False)

    @property
    def _products(self) -> "_Products | None":
        """Products that `weights` can give without forming the layers."""
        return getattr(self.weights, "products", None)

    def _boundary(self, i: int) -> int:
        i = validation.integer("i", i, least=0)
        if i > self.depth:
            raise ValueError(f"i must be at most the depth, {self.depth}, not {i}")
        return i

    def _inputs(self, X: ArrayLike) -> np.ndarray:
        X = arrays.finite_matrix("X", X)
        if len(X) != self.d_x:
            raise ValueError(f"X must have {self.d_x} rows (d_x), not shape {X.shape}")
        return X


class _Products(Protocol):
    """Products of a network's layers, in float64, by a shorter way than through the layers."""

    def end_to_end(self) -> np.ndarray: ...

    def suffix(self, boundary: int) -> np.ndarray: ...

    def prefix(self, boundary: int, X: np.ndarray | None) -> np.ndarray: ...


def write_archive(
    path: str | os.PathLike[str],
    layers: Iterable[np.ndarray],
    others: Mapping[str, np.ndarray],
) -> None:
    """Write layers, and arrays named in `RUN_ARRAYS`, to an ``.npz``, whole or not at all."""
    partial = f"{os.fspath(path)}.partial"
    numbered = ((str(i), layer) for i, layer in enumerate(layers))
    try:
        with zipfile.ZipFile(partial, "w", allowZip64=True) as archive:
            for name, array in itertools.chain(numbered, others.items()):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array, order="C"))
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def _read_layers(file: IO[bytes]) -> list[np.ndarray] | None:
    if not zipfile.is_zipfile(file):
        return None
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        layers = [name for name in archive.files if name not in RUN_ARRAYS]
        names = [str(i) for i in range(len(layers))]
        if not names or set(names) != set(layers):
            return None
        found = [archive[name] for name in names]
    return found if all(isinstance(layer, np.ndarray) for layer in found) else None


def _short(widths: tuple[int, ...]) -> str:
    if len(widths) > 8 and len(set(widths)) == 1:
        return f"({widths[0]},)*{len(widths)}"
    return str(widths) if len(widths) <= 8 else f"({widths[0]}, {widths[1]}, …, {widths[-1]})"


def _checked(layers: list[np.ndarray]) -> list[np.ndarray]:
    floats = [w for w in layers if w.dtype.kind == "f"]
    dtype = arrays.float_dtype(floats[0].dtype) if floats else np.dtype("float64")
    checked = []
    for i, w in enumerate(layers, start=1):
        if w.dtype.kind == "f" and w.dtype != dtype:
            raise TypeError(
                f"weights must share one dtype, but layer {i} is {w.dtype}, not {dtype}"
            )
        checked.append(arrays.finite_matrix(f"layer {i}", w, dtype))
    for i, (lower, upper) in enumerate(zip(checked, checked[1:], strict=False), start=1):
        if upper.shape[1] != lower.shape[0]:
            raise ValueError(
                f"layer {i + 1} of shape {upper.shape} must have as many columns as layer {i} of"
                f" shape {lower.shape} has rows"
            )
    return checked


def hidden_widths(width: int | Sequence[int] | None, depth: int | None) -> tuple[int, ...]:
    """Return the hidden widths ``(m_1, …, m_{L-1})`` given by `width` and `depth`.

    Parameters
    ----------
    width : int or sequence of int
        One width for all hidden layers, or one for each.
    depth : int or None
        Number of layers L ≥ 1; may be left out where `width` lists all hidden widths.
    """
    if width is None or np.ndim(width) == 0:
        if depth is None:
            raise ValueError("depth must be given where width is one number")
        if width is None:
            raise ValueError("width must be given: one number, or a list of hidden widths")
        width = validation.positive_integer("width", width)
        return (width,) * (validation.positive_integer("depth", depth) - 1)
    listed = cast(Sequence[int], width)
    widths = tuple(validation.positive_integer(f"width[{i}]", w) for i, w in enumerate(listed))
    if depth is not None and validation.positive_integer("depth", depth) != len(widths) + 1:
        raise ValueError(
            f"width lists {len(widths)} hidden widths, which makes depth {len(widths) + 1},"
            f" but depth is {depth}"
        )
    return widths
