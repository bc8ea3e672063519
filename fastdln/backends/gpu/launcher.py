"""Check grids and arguments of kernels, and launch the kernels on the current GPU and stream."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastdln.kernels.cuda import compiler
from fastdln.kernels.cuda.declarations import Parameters
from fastdln.kernels.cuda.sources import Constants

from . import device as gpu
from .device import ArrayModule, Device, DeviceArray

# A kernel of CuPy, which has no type hints.
Kernel = Any

# Shared memory, in bytes, up to which a kernel needs no attribute set.
DEFAULT_SHARED = 48 * 1024
# Percentage of a multiprocessor's on-chip memory to use as shared memory rather than cache.
ALL_SHARED = 100
MAX_GRID_ROWS = 65_535
WARP = 32
# Element types of a kernel's other arrays: losses and problems, tables, indices, counters.
COMMON_DTYPES = tuple(np.dtype(name) for name in ("float64", "int64", "int32", "uint32"))
# Registers per thread at which two blocks of 256 threads fit on a multiprocessor.
FEW_REGISTERS = 128


def launcher_on(device_name: str, dtype: DTypeLike) -> "Launcher":
    """Return the launcher of kernels of an element type on the GPU ``"gpu"`` or ``"gpu:N"``.

    Raises as `fastdln.backends.gpu.device.require_gpu` does.
    """
    return Launcher(gpu.require_gpu(device_name), dtype)


class Launcher:
    """Launch kernels of one element type on one GPU, asynchronously.

    Attributes
    ----------
    device : Device
    dtype : numpy.dtype
    xp : module
        CuPy.
    two_pass_threads : int
        Threads per block of the two-pass kernels.
    """

    two_pass_threads = 256

    def __init__(self, device: Device, dtype: DTypeLike):
        import cupy

        self.device, self.dtype = device, np.dtype(dtype)
        self.xp: ArrayModule = cupy

    def here(self) -> AbstractContextManager[ArrayModule]:
        """Return a context manager that makes the GPU the current one."""
        return gpu.on_device(self.device)

    def free_bytes(self) -> int:
        """Return the bytes that can still be allocated on the GPU."""
        return gpu.free_bytes(self.device)

    def synchronize(self) -> None:
        """Wait for all work queued on the current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    def out_of_memory(self) -> type[BaseException]:
        """Return the type of CuPy's exception for a failed allocation."""
        return self.xp.cuda.memory.OutOfMemoryError

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the kernels of `work` in a CUDA graph; return a function that launches the graph.

        Every kernel must have run before: kernels cannot be compiled while recording.
        """
        stream = self.xp.cuda.Stream(non_blocking=True)
        self.synchronize()
        with stream:
            stream.begin_capture()
            work()
            graph = stream.end_capture()

        return lambda: graph.launch(self.xp.cuda.get_current_stream())

    def __call__(
        self,
        name: str,
        function: str,
        grid: tuple[int, int],
        threads: int,
        shared: int,
        parameters: Parameters,
    ) -> None:
        """Launch a kernel of the file `name` on the current stream."""
        if not 1 <= grid[1] <= MAX_GRID_ROWS:
            raise ValueError(f"a grid has 1 to {MAX_GRID_ROWS} rows, not {grid[1]}")
        kernel = self._kernel(function, name, (), FEW_REGISTERS, False, shared)
        kernel(grid, (threads,), self._checked(parameters), shared_mem=shared)

    def zigzag(
        self, constants: Constants, blocks: int, threads: int, shared: int, parameters: Parameters
    ) -> None:
        """Launch the zigzag kernel; a grid of groups of blocks must be resident as a whole."""
        warp_groups = dict(constants)["WARP_GROUPS"]
        if warp_groups > 1 and threads % (warp_groups * WARP):
            raise ValueError(
                f"{warp_groups} warp groups of a block need whole warps, not {threads} threads"
            )
        kernel, grouped = self._zigzag_kernel(constants, threads, shared)
        if grouped:
            capacity = self.resident_blocks(kernel, threads, shared)
            # CuPy would shrink the grid with a warning, and the launched blocks would deadlock.
            if blocks > capacity:
                raise ValueError(
                    f"{blocks} blocks that synchronise do not fit: the GPU holds {capacity}"
                )
        kernel((blocks,), (threads,), self._checked(parameters), shared_mem=shared)

    def zigzag_capacity(self, constants: Constants, threads: int, shared: int) -> int:
        """Return the maximum number of simultaneously resident blocks of the zigzag kernel."""
        kernel, _ = self._zigzag_kernel(constants, threads, shared)
        return self.resident_blocks(kernel, threads, shared)

    def resident_blocks(self, kernel: Kernel, threads: int, shared: int) -> int:
        """Return the maximum number of simultaneously resident blocks of a kernel."""
        from cupy_backends.cuda.api import driver

        each = driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, threads, shared)
        return int(each) * self.device.multiprocessors

    def _zigzag_kernel(
        self, constants: Constants, threads: int, shared: int
    ) -> tuple[Kernel, bool]:
        """Return the kernel, and whether its blocks work in groups."""
        grouped = bool(dict(constants)["GROUPED"])
        registers = max_registers(threads)
        kernel = self._kernel("train_networks", "zigzag", constants, registers, grouped, shared)
        return kernel, grouped

    def multiply(self, C: DeviceArray, A: DeviceArray, B: DeviceArray, add: bool) -> None:
        """Set C to A·B, or add it to C, for batches of matrices with one contiguous axis each."""
        from cupy.cuda import cublas, device

        if 0 in C.shape:
            return
        function = cublas.sgemmStridedBatched if self.dtype == "float32" else None
        function = function or cublas.dgemmStridedBatched
        one, beta = np.ones((), self.dtype), np.full((), float(add), self.dtype)
        # Row-major C = A·B is column-major Cᵀ = Bᵀ·Aᵀ.
        (lead_a, transpose_a), (lead_b, transpose_b) = _leading(A), _leading(B)
        lead_c, transpose_c = _leading(C)
        if transpose_c:
            raise ValueError("rows of the result must be contiguous")
        frames, rows, columns = C.shape
        itemsize = self.dtype.itemsize
        left = B.data.ptr, lead_b, B.strides[0] // itemsize
        right = A.data.ptr, lead_a, A.strides[0] // itemsize
        result = C.data.ptr, lead_c, C.strides[0] // itemsize
        form = int(transpose_b), int(transpose_a), columns, rows, A.shape[2]
        handle, alpha = device.get_cublas_handle(), one.ctypes.data
        function(handle, *form, alpha, *left, *right, beta.ctypes.data, *result, frames)

    def _kernel(
        self,
        function: str,
        name: str,
        constants: Constants,
        registers: int,
        cooperative: bool,
        shared: int,
    ) -> Kernel:
        if shared > self.device.shared_bytes:
            raise ValueError(
                f"a block of {function} needs {shared:,} bytes of shared memory, but"
                f" {self.device} has {self.device.shared_bytes:,}"
            )
        kernel = compiler.kernel(
            function, name, self.dtype, constants, registers=registers, cooperative=cooperative
        )
        if shared > DEFAULT_SHARED:
            kernel.max_dynamic_shared_size_bytes = shared
            # Otherwise the driver may reserve too much memory as cache for two blocks to fit.
            kernel.preferred_shared_memory_carveout = ALL_SHARED
        return kernel

    def _checked(self, parameters: Parameters) -> tuple[np.ndarray]:
        """Check the arrays of `parameters`; return the kernel's only argument, a struct.

        Arrays must be on this GPU, have contiguous rows and one of the kernels' dtypes. The struct
        is a NumPy array of size one, which CuPy passes by value.
        """
        for value in parameters.arrays():
            if not isinstance(value, self.xp.ndarray):
                raise TypeError(f"a kernel reads arrays on the GPU, not {type(value).__name__}")
            if value.device.id != self.device.ordinal:
                raise ValueError(
                    f"an array is on gpu:{value.device.id}, the kernel on {self.device}"
                )
            if value.dtype not in (self.dtype, *COMMON_DTYPES):
                raise TypeError(f"a kernel for {self.dtype} was given {value.dtype}")
            if value.size and value.shape[-1] > 1 and value.strides[-1] != value.itemsize:
                raise ValueError(f"rows must be contiguous, but strides are {value.strides}")
        return (parameters.packed(self.dtype),)


def max_registers(threads: int) -> int:
    """Return the maximum registers per thread for a block of `threads` threads."""
    return min(255, 65_536 // max(threads, WARP) // 8 * 8)


def _leading(batch: DeviceArray) -> tuple[int, bool]:
    """Return the non-contiguous axis's stride in elements, and whether columns are contiguous."""
    _, rows, columns = batch.shape
    itemsize = batch.dtype.itemsize
    _, row, column = batch.strides
    if column == itemsize or columns == 1:
        return max(row // itemsize, columns), False
    if row == itemsize or rows == 1:
        return max(column // itemsize, rows), True
    raise ValueError(f"a matrix with strides {batch.strides[1:]} has no contiguous axis")
