"""Starting kernels on the current card and stream: grids checked, shared memory asked for."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fastdln.backends.gpu.device import Card, free_bytes, on_card, require_gpu
from fastdln.kernels.cuda import compiler
from fastdln.kernels.cuda.sources import Constants

# Shared memory that every kernel may have without asking.
GRANTED = 48 * 1024
# Per cent of a multiprocessor's memory that are not cache.
ALL_SHARED = 100
MOST_ROWS = 65_535
WARP = 32
# Types of a kernel's arrays beside its own: losses and problems, tables, indices, counters.
READ_BY_ALL = tuple(np.dtype(name) for name in ("float64", "int64", "int32", "uint32"))
# Two blocks of 256 threads on a multiprocessor.
FEW_REGISTERS = 128


def launcher_on(device: str, dtype: Any) -> "Launcher":
    """Return what starts kernels of an element type on the card ``"gpu"`` or ``"gpu:N"`` names.

    Raises as `fastdln.backends.gpu.device.require_gpu` does.
    """
    return Launcher(require_gpu(device), dtype)


class Launcher:
    """Kernels of one element type on one card; an instance starts them and does not wait."""

    def __init__(self, card: Card, dtype: Any):
        import cupy

        self.card, self.dtype, self.xp = card, np.dtype(dtype), cupy

    def here(self) -> AbstractContextManager[Any]:
        """Return what makes the card the current one."""
        return on_card(self.card)

    def free_bytes(self) -> int:
        """Return how many bytes may still be allocated on the card."""
        return free_bytes(self.card)

    def synchronize(self) -> None:
        """Wait for everything queued on the current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    def out_of_memory(self) -> type[BaseException]:
        """Return what an allocation that does not fit raises."""
        return self.xp.cuda.memory.OutOfMemoryError

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what queues all kernels of `work` at once; they must have run before."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        self.synchronize()
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()

        def again() -> None:
            graph.launch(self.xp.cuda.get_current_stream())

        return again

    def __call__(
        self,
        name: str,
        function: str,
        grid: tuple[int, int],
        threads: int,
        shared: int,
        arguments: tuple[Any, ...],
    ) -> None:
        """Start a kernel of the file `name` on the current stream."""
        if not 1 <= grid[1] <= MOST_ROWS:
            raise ValueError(f"a grid has 1 to {MOST_ROWS} rows, not {grid[1]}")
        kernel = self._kernel(function, name, (), FEW_REGISTERS, False, shared)
        kernel(grid, (threads,), self._checked(arguments), shared_mem=shared)

    def zigzag(
        self, constants: Constants, blocks: int, threads: int, shared: int, arguments: Any
    ) -> None:
        """Start the zigzag kernel; blocks that wait for each other are all on the card at once."""
        grouped, crews = bool(dict(constants)["GROUPED"]), dict(constants)["CREWS"]
        if crews > 1 and threads % (crews * WARP):
            raise ValueError(f"{crews} crews of a block are whole warps, not {threads} threads")
        registers = most_registers(threads)
        kernel = self._kernel("train_networks", "zigzag", constants, registers, grouped, shared)
        if grouped:
            room = self.resident(kernel, threads, shared)
            # CuPy would shrink the grid with a warning, and the blocks left would wait for ever.
            if blocks > room:
                raise ValueError(f"{blocks} blocks that meet do not fit: the card holds {room}")
        kernel((blocks,), (threads,), self._checked(arguments), shared_mem=shared)

    def resident(self, kernel: Any, threads: int, shared: int) -> int:
        """Return how many blocks of a kernel the card works on at the same time."""
        from cupy_backends.cuda.api import driver

        each = driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, threads, shared)
        return int(each) * self.card.multiprocessors

    def zigzag_room(self, constants: Constants, threads: int, shared: int) -> int:
        """Return how many blocks of the zigzag kernel the card works on at the same time."""
        grouped = bool(dict(constants)["GROUPED"])
        registers = most_registers(threads)
        kernel = self._kernel("train_networks", "zigzag", constants, registers, grouped, shared)
        return self.resident(kernel, threads, shared)

    def multiply(self, C: Any, A: Any, B: Any, add: bool) -> None:
        """Set C to A·B, or add it to C, for batches of matrices with one contiguous axis each."""
        from cupy.cuda import cublas, device

        if 0 in C.shape:
            return
        function = cublas.sgemmStridedBatched if self.dtype == "float32" else None
        function = function or cublas.dgemmStridedBatched
        one, beta = np.ones((), self.dtype), np.full((), float(add), self.dtype)
        # Row-major C = A·B is column-major Cᵀ = Bᵀ·Aᵀ.
        (lead_a, turned_a), (lead_b, turned_b) = _leading(A), _leading(B)
        lead_c, turned_c = _leading(C)
        if turned_c:
            raise ValueError("rows of the result must be contiguous")
        frames, rows, columns = C.shape
        itemsize = self.dtype.itemsize
        handle = device.get_cublas_handle()
        function(
            handle, int(turned_b), int(turned_a), columns, rows, A.shape[2], one.ctypes.data,
            B.data.ptr, lead_b, B.strides[0] // itemsize, A.data.ptr, lead_a,
            A.strides[0] // itemsize, beta.ctypes.data, C.data.ptr, lead_c,
            C.strides[0] // itemsize, frames,
        )  # fmt: skip

    def _kernel(
        self,
        function: str,
        name: str,
        constants: Constants,
        registers: int,
        cooperative: bool,
        shared: int,
    ) -> Any:
        if shared > self.card.shared_bytes:
            raise ValueError(
                f"a block of {function} asks for {shared:,} bytes of shared memory, but"
                f" {self.card} has {self.card.shared_bytes:,}"
            )
        kernel = compiler.kernel(
            function, name, self.dtype, constants, registers=registers, cooperative=cooperative
        )
        if shared > GRANTED:
            kernel.max_dynamic_shared_size_bytes = shared
            # Or the driver might keep so much for a cache that two blocks do not fit.
            kernel.preferred_shared_memory_carveout = ALL_SHARED
        return kernel

    def _checked(self, arguments: Any) -> tuple[Any, ...]:
        """Return `arguments`: on this card, rows contiguous, of a type that kernels read."""
        for value in arguments:
            if isinstance(value, np.generic):
                continue
            if not isinstance(value, self.xp.ndarray):
                raise TypeError(f"a kernel reads arrays on the card, not {type(value).__name__}")
            if value.device.id != self.card.ordinal:
                raise ValueError(f"an array is on gpu:{value.device.id}, the kernel on {self.card}")
            if value.dtype not in (self.dtype, *READ_BY_ALL):
                raise TypeError(f"a kernel for {self.dtype} was given {value.dtype}")
            if value.size and value.shape[-1] > 1 and value.strides[-1] != value.itemsize:
                raise ValueError(f"rows must be contiguous, but strides are {value.strides}")
        return tuple(arguments)


def most_registers(threads: int) -> int:
    """Return the registers of a thread that a block of so many threads can have."""
    return min(255, 65_536 // max(threads, WARP) // 8 * 8)


def _leading(batch: Any) -> tuple[int, bool]:
    """Return the numbers between rows, or between columns, and whether columns are contiguous."""
    _, rows, columns = batch.shape
    itemsize = batch.dtype.itemsize
    _, row, column = batch.strides
    if column == itemsize or columns == 1:
        return max(row // itemsize, columns), False
    if row == itemsize or rows == 1:
        return max(column // itemsize, rows), True
    raise ValueError(f"a matrix with strides {batch.strides[1:]} has no contiguous axis")
