"""Find the GPU for a device name and check that it is usable; error messages name the remedy."""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fastdln.utils import memory

# CuPy, or NumPy in tests.
ArrayModule = ModuleType
# An array of an `ArrayModule`: CuPy has no type hints.
DeviceArray = Any

# Least compute capability with asynchronous copies into shared memory (A100 and later).
OLDEST = (8, 0)
# cudaErrorNoDevice.
NO_DEVICE = 100
# Fraction of the theoretical memory bandwidth that copies reach (H200: 4.3 of 4.9 TB/s).
COPY_SHARE = 0.88
# Clock of an H100's multiprocessors under load, assumed if the driver reports none.
H100_CLOCK_HZ = 1.98e9
INSTALL = "pip install 'fastdln[cuda13]' (driver 580 or later) or 'fastdln[cuda12]'"


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes
    ----------
    ordinal : int
    name : str
    multiprocessors : int
    shared_bytes : int
        Maximum shared memory of one block, in bytes.
    shared_bytes_per_multiprocessor : int
    memory_bytes_per_cycle : float
        Bytes read from or written to the GPU's memory in one cycle of its multiprocessors; infinite
        if the driver does not report the memory's clock.
    clock_hz : float
        Clock rate of the multiprocessors.
    """

    ordinal: int
    name: str
    multiprocessors: int
    shared_bytes: int
    shared_bytes_per_multiprocessor: int
    memory_bytes_per_cycle: float
    clock_hz: float = H100_CLOCK_HZ

    def __str__(self) -> str:
        return f"gpu:{self.ordinal}"


def available() -> bool:
    """Return whether there is a GPU that ``device="gpu"`` can use."""
    try:
        # Suppress the warnings of CuPy's first import: the user may not have asked for a GPU.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            require_gpu("gpu")
    except (ImportError, RuntimeError, ValueError):
        return False
    return True


def require_gpu(name: object = "gpu") -> Device:
    """Return the GPU that ``"gpu"`` or ``"gpu:N"`` names.

    Raises
    ------
    ValueError
        For another name, or an N that this machine does not have.
    ImportError
        If CuPy, the compiler NVRTC or cuBLAS is not installed, or cannot be loaded.
    RuntimeError
        If there is no driver, none new enough, no GPU, or only one that is too old.
    """
    ordinal = _ordinal(name)
    cupy = _cupy(name)
    count = _count(cupy, name)
    if ordinal >= count:
        known = "'gpu:0'" if count == 1 else f"'gpu:0' to 'gpu:{count - 1}'"
        raise ValueError(f"device {name!r} does not exist: this machine has {known}")
    _require_libraries(cupy, name)
    return _device(cupy, ordinal)


def _ordinal(name: object) -> int:
    found = re.fullmatch(r"gpu(?::(\d+))?", name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"device must be 'gpu' or 'gpu:N' with N from 0, not {name!r}")
    return int(found[1] or 0)


def _cupy(name: object) -> ArrayModule:
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise ImportError(
            f"device {name!r} needs CuPy, which is not installed: {INSTALL}"
        ) from error
    except ImportError as error:
        raise ImportError(
            f"device {name!r} needs CuPy, which is installed but cannot be loaded: {error}"
        ) from error
    return cupy


def _count(cupy: ArrayModule, name: object) -> int:
    """Return the number of GPUs, at least 1."""
    runtime = cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise RuntimeError(
            f"device {name!r} needs an NVIDIA driver, and none is loaded on this machine;"
            " CuPy is installed. Install the driver, or use device='cpu'"
        )
    # Within a major version of CUDA an older driver runs code compiled by a newer toolkit.
    if driver // 1000 < needed // 1000:
        raise RuntimeError(
            f"device {name!r}: the NVIDIA driver is for CUDA {_version(driver)}, but the"
            f" installed CuPy is for CUDA {_version(needed)}; update the driver, or install"
            f" 'fastdln[cuda{driver // 1000}]' in place of this CuPy"
        )
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        if getattr(error, "status", None) != NO_DEVICE:
            raise RuntimeError(f"device {name!r} cannot be used: {error}") from error
        count = 0
    if count == 0:
        raise RuntimeError(
            f"device {name!r}: the NVIDIA driver is loaded but finds no GPU"
            " (is one assigned to this job, and CUDA_VISIBLE_DEVICES right?)"
        )
    return count


def _require_libraries(cupy: ArrayModule, name: object) -> None:
    """Raise ImportError unless CuPy finds the compiler and the matrix products it loads lazily."""
    try:
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.cublas  # noqa: B018 - loaded on first access
    except Exception as error:  # CuPy's exception types differ between its versions
        raise ImportError(
            f"device {name!r} needs NVRTC and cuBLAS, which CuPy does not find"
            f" ({' '.join(str(error).split())}): {INSTALL}"
        ) from error


def _device(cupy: ArrayModule, ordinal: int) -> Device:
    found = cupy.cuda.runtime.getDeviceProperties(ordinal)
    name = found["name"].decode() if isinstance(found["name"], bytes) else str(found["name"])
    capability = int(found["major"]), int(found["minor"])
    if capability < OLDEST:
        raise RuntimeError(
            f"gpu:{ordinal} ({name}) has compute capability {capability[0]}.{capability[1]};"
            f" {OLDEST[0]}.{OLDEST[1]} or later is needed"
        )
    runtime = cupy.cuda.runtime
    clock_khz = runtime.deviceGetAttribute(runtime.cudaDevAttrClockRate, ordinal)
    return Device(
        ordinal,
        name,
        int(found["multiProcessorCount"]),
        int(found["sharedMemPerBlockOptin"]),
        int(found["sharedMemPerMultiprocessor"]),
        _memory_bytes_per_cycle(runtime, ordinal, clock_khz),
        1e3 * clock_khz if clock_khz else H100_CLOCK_HZ,
    )


def _memory_bytes_per_cycle(runtime: ModuleType, ordinal: int, clock_khz: int) -> float:
    memory_khz, bits = (
        runtime.deviceGetAttribute(attribute, ordinal)
        for attribute in (
            runtime.cudaDevAttrMemoryClockRate,
            runtime.cudaDevAttrGlobalMemoryBusWidth,
        )
    )
    if not (clock_khz and memory_khz and bits):
        return math.inf
    return COPY_SHARE * 2 * memory_khz * (bits // 8) / clock_khz  # twice: double data rate


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


@contextmanager
def on_device(device: Device) -> Iterator[ArrayModule]:
    """Make `device` the current one and yield CuPy."""
    import cupy

    with cupy.cuda.Device(device.ordinal):
        yield cupy


def free_bytes(device: Device) -> int:
    """Return the bytes that this process can still allocate on a GPU."""
    with on_device(device) as cupy:
        # Unused blocks of CuPy's pool are free, too; the driver counts them as used.
        return int(cupy.cuda.Device().mem_info[0] + cupy.get_default_memory_pool().free_bytes())


def require_memory(device: Device, needed: int, what: str, advice: str) -> None:
    """Raise MemoryError unless `needed` bytes fit on the GPU; the message names the bytes."""
    memory.require(needed, free_bytes(device), f"{what} on {device} ({device.name})", advice)
