"""Which card computes, whether it can, and what it has: every refusal says what to do about it."""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastdln.utils import memory

# The oldest cards whose copies into shared memory the kernels use (A100 and later).
OLDEST = (8, 0)
# cudaErrorNoDevice.
NO_DEVICE = 100
# What copies reach of the memory's bandwidth by its clock (an H200: 4.3 of 4.9 TB/s).
COPY_SHARE = 0.88
INSTALL = "pip install 'fastdln[cuda13]' (driver 580 or later) or 'fastdln[cuda12]'"


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes
    ----------
    ordinal : int
    name : str
    multiprocessors : int
    shared_bytes : int
        Most shared memory of one block, in bytes.
    shared_bytes_of_multiprocessor : int
    memory_bytes_a_cycle : float
        To and from the card's memory in a cycle of its multiprocessors; infinite where the driver
        does not say.
    """

    ordinal: int
    name: str
    multiprocessors: int
    shared_bytes: int
    shared_bytes_of_multiprocessor: int
    memory_bytes_a_cycle: float

    def __str__(self) -> str:
        return f"gpu:{self.ordinal}"


def available() -> bool:
    """Return whether there is a card that ``device="gpu"`` can use."""
    try:
        # What CuPy warns of when first imported is no answer.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            require_gpu("gpu")
    except (ImportError, RuntimeError, ValueError):
        return False
    return True


def require_gpu(device: Any = "gpu") -> Card:
    """Return the card that ``"gpu"`` or ``"gpu:N"`` names.

    Raises
    ------
    ValueError
        For another name, or an N that this machine does not have.
    ImportError
        If CuPy, the compiler NVRTC or cuBLAS is not installed, or cannot be loaded.
    RuntimeError
        If there is no driver, none new enough, no card, or a card that is too old.
    """
    ordinal = _ordinal(device)
    cupy = _cupy(device)
    count = _count(cupy, device)
    if ordinal >= count:
        known = "'gpu:0'" if count == 1 else f"'gpu:0' to 'gpu:{count - 1}'"
        raise ValueError(f"device {device!r} does not exist: this machine has {known}")
    _require_libraries(cupy, device)
    return _card(cupy, ordinal)


def _ordinal(device: Any) -> int:
    found = re.fullmatch(r"gpu(?::(\d+))?", device) if isinstance(device, str) else None
    if found is None:
        raise ValueError(f"device must be 'gpu' or 'gpu:N' with N from 0, not {device!r}")
    return int(found[1] or 0)


def _cupy(device: str) -> Any:
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise ImportError(
            f"device {device!r} needs CuPy, which is not installed: {INSTALL}"
        ) from error
    except ImportError as error:
        raise ImportError(
            f"device {device!r} needs CuPy, which is installed but cannot be loaded: {error}"
        ) from error
    return cupy


def _count(cupy: Any, device: str) -> int:
    """Return how many cards there are, at least 1."""
    runtime = cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        raise RuntimeError(
            f"device {device!r} needs an NVIDIA driver, and none is loaded on this machine;"
            " CuPy is installed. Install the driver, or use device='cpu'"
        )
    # Within a major version of CUDA an older driver runs what a newer toolkit compiled.
    if driver // 1000 < needed // 1000:
        raise RuntimeError(
            f"device {device!r}: the NVIDIA driver is for CUDA {_version(driver)}, but the"
            f" installed CuPy is for CUDA {_version(needed)}; update the driver, or install"
            f" 'fastdln[cuda{driver // 1000}]' in place of this CuPy"
        )
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        if getattr(error, "status", None) != NO_DEVICE:
            raise RuntimeError(f"device {device!r} cannot be used: {error}") from error
        count = 0
    if count == 0:
        raise RuntimeError(
            f"device {device!r}: the NVIDIA driver is loaded but finds no card"
            " (is one assigned to this job, and CUDA_VISIBLE_DEVICES right?)"
        )
    return count


def _require_libraries(cupy: Any, device: str) -> None:
    """Raise unless the compiler and the matrix products that CuPy loads by itself are there."""
    try:
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.cublas  # noqa: B018 - loaded when it is first asked for
    except Exception as error:  # CuPy's own kinds, which differ between its versions
        raise ImportError(
            f"device {device!r} needs NVRTC and cuBLAS, which CuPy does not find"
            f" ({' '.join(str(error).split())}): {INSTALL}"
        ) from error


def _card(cupy: Any, ordinal: int) -> Card:
    found = cupy.cuda.runtime.getDeviceProperties(ordinal)
    name = found["name"].decode() if isinstance(found["name"], bytes) else str(found["name"])
    capability = int(found["major"]), int(found["minor"])
    if capability < OLDEST:
        raise RuntimeError(
            f"gpu:{ordinal} ({name}) has compute capability {capability[0]}.{capability[1]};"
            f" {OLDEST[0]}.{OLDEST[1]} or later is needed"
        )
    return Card(
        ordinal,
        name,
        int(found["multiProcessorCount"]),
        int(found["sharedMemPerBlockOptin"]),
        int(found["sharedMemPerMultiprocessor"]),
        _memory_bytes_a_cycle(cupy.cuda.runtime, ordinal),
    )


def _memory_bytes_a_cycle(runtime: Any, ordinal: int) -> float:
    clock, memory_clock, bits = (
        runtime.deviceGetAttribute(attribute, ordinal)
        for attribute in (
            runtime.cudaDevAttrClockRate,
            runtime.cudaDevAttrMemoryClockRate,
            runtime.cudaDevAttrGlobalMemoryBusWidth,
        )
    )
    if not (clock and memory_clock and bits):
        return math.inf
    return COPY_SHARE * 2 * memory_clock * (bits // 8) / clock  # twice: double data rate


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


@contextmanager
def on_card(card: Card) -> Iterator[Any]:
    """Make `card` the current one and yield CuPy."""
    import cupy

    with cupy.cuda.Device(card.ordinal):
        yield cupy


def free_bytes(card: Card) -> int:
    """Return how many bytes may still be allocated on a card by this process."""
    with on_card(card) as cupy:
        # What CuPy's pool holds unused is free to us, though the driver does not say so.
        return int(cupy.cuda.Device().mem_info[0] + cupy.get_default_memory_pool().free_bytes())


def require_memory(card: Card, needed: int, what: str, advice: str) -> None:
    """Raise MemoryError unless `needed` bytes fit on the card; the message names the bytes."""
    memory.require(needed, free_bytes(card), f"{what} on {card} ({card.name})", advice)
