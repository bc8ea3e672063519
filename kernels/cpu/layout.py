"""Memory layout of a network's layers and products: padded to whole vectors and contiguous.

Layer l (0-based, input first) is a row-major matrix of ``widths[l+1]`` rows and ``widths[l]``
columns. Rows are padded to a multiple of four and columns to whole vectors; the padding is zero
and stays zero under every kernel, so that no kernel handles remainders separately.
"""

import contextlib
import mmap
from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cpu.tiles import lanes

# Bytes of a huge page (of x86 and, mostly, ARM), and whether this system can be asked for them.
HUGE_PAGE = 2**21
HUGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE") and hasattr(mmap, "MAP_ANONYMOUS")
# Columns of the table of layers; see `Layout.layers`.
OFFSET, ROWS, COLUMNS, STRIDE, PRODUCT, VECTORS = range(6)


class Layout(NamedTuple):
    """The addresses of a chain of layers and of its products, for one dtype.

    Attributes
    ----------
    widths : tuple of int
        ``(columns of the first layer, rows of every layer …)``, unpadded.
    dtype : numpy.dtype
    q : int
        Rows of the end-to-end matrix, unpadded.
    q_padded : int
        Rows of every product in memory.
    layers : ndarray of int64, shape (depth, 6)
        OFFSET of the layer in the weights, its ROWS and COLUMNS (unpadded), its STRIDE (padded
        columns), the offset of the PRODUCT of the last layers down to this one, and the VECTORS
        of a row.
    size : int
        Elements of the weights, padding included.
    product_size : int
        Elements of the products, padding included.
    """

    widths: tuple[int, ...]
    dtype: np.dtype
    q: int
    q_padded: int
    layers: np.ndarray
    size: int
    product_size: int

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths) - 1

    @property
    def widest(self) -> int:
        """Largest padded width between layers, inputs and outputs included."""
        return _round_up(max(self.widths), _unit(self.dtype))

    def view(self, weights: np.ndarray, layer: int) -> np.ndarray:
        """Return layer `layer` of the flat `weights` as a (rows, columns) view."""
        offset, rows, columns, stride = self.layers[layer, [OFFSET, ROWS, COLUMNS, STRIDE]]
        return weights[offset : offset + rows * stride].reshape(rows, stride)[:, :columns]


def make_layout(widths: tuple[int, ...], dtype: Any) -> Layout:
    """Return the layout of layers of shapes ``(widths[l+1], widths[l])``."""
    dtype = np.dtype(dtype)
    unit = _unit(dtype)
    n = np.asarray(widths, dtype=np.int64)
    stride = _round_up(n[:-1], unit)
    sizes = _round_up(n[1:], 4) * stride
    q_padded = pad_rows(int(n[-1]))
    products = q_padded * stride
    layers = np.empty((n.size - 1, 6), dtype=np.int64)
    layers[:, OFFSET], layers[:, PRODUCT] = np.cumsum(sizes) - sizes, np.cumsum(products) - products
    layers[:, ROWS], layers[:, COLUMNS] = n[1:], n[:-1]
    layers[:, STRIDE], layers[:, VECTORS] = stride, stride // lanes(dtype)
    return Layout(
        tuple(int(w) for w in widths),
        dtype,
        int(n[-1]),
        q_padded,
        layers,
        int(sizes.sum()),
        int(products.sum()),
    )


def pad_rows(q: int) -> int:
    """Return the least number of rows ≥ q that strips of 4 and 5 cover; 1 and 2 are unchanged."""
    return q + {3: 1, 6: 2, 7: 1, 11: 1}.get(q, 0)


def aligned_zeros(size: int, dtype: Any) -> np.ndarray:
    """Return `size` zeros aligned to a cache line, so that no vector straddles two lines.

    Large arrays are in huge pages where Linux has them: the first step of a run at 26 × 700 took
    3 ms, as long as nine steps, for 500 page faults of a virtual machine at 4 to 6 µs each. NumPy
    asks for huge pages from 4 MiB on only.
    """
    dtype = np.dtype(dtype)
    count = size + 64 // dtype.itemsize
    if HUGE_PAGES and count * dtype.itemsize >= HUGE_PAGE // 4:
        raw = _in_huge_pages(count, dtype)
    else:
        raw = np.zeros(count, dtype=dtype)
    start = (-raw.ctypes.data % 64) // dtype.itemsize
    return raw[start : start + size]


def _in_huge_pages(count: int, dtype: np.dtype) -> np.ndarray:
    """Return zeros from the start of a huge page on."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, count * dtype.itemsize + HUGE_PAGE, flags=flags)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    address = np.frombuffer(memory, np.uint8, 1).ctypes.data
    return np.frombuffer(memory, dtype, count, -address % HUGE_PAGE)


def _unit(dtype: np.dtype) -> int:
    return max(lanes(dtype), 4)


def _round_up(n: Any, unit: int) -> Any:
    return (n + unit - 1) // unit * unit
