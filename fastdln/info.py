"""Properties of this machine and installation, for bug reports and for reading timings."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fastdln.backends.gpu.device import require_gpu
from fastdln.utils import memory, processor, threads
from fastdln.utils.processor import UNKNOWN

PACKAGES = (
    "fastdln",
    "numpy",
    "numba",
    "llvmlite",
    "scipy",
    "xarray",
    "zarr",
    "matplotlib",
    "distributed",
)
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


class Info(dict[str, dict[str, str]]):
    """Sections of names and values; `str` formats them as aligned lines."""

    def __str__(self) -> str:
        width = max(len(name) for section in self.values() for name in section)
        lines = []
        for title, section in self.items():
            lines.append(title)
            lines.extend(f"  {name:<{width}}  {value}" for name, value in section.items())
        return "\n".join(lines)


def info() -> Info:
    """Return versions, processor, caches, threads, memory, BLAS and GPU, as text.

    Returns
    -------
    Info
        A dict of sections, each a dict of str to str; ``print(info())`` is readable. A value that
        cannot be determined is ``"unknown"``; where there is no GPU, the value says why.
    """
    return Info(
        {
            "versions": _versions(),
            "processor": {
                "name": processor.name(),
                "vectors": _vectors(),
                "threads": f"{threads.available()} used by fastdln",
                **_caches(),
            },
            "kernels": _kernels(),
            "memory": _memory(),
            "BLAS": {"NumPy": _blas()},
            "GPU": _gpu(),
        }
    )


def _kernels() -> dict[str, str]:
    """Return the cost model's choices for a few networks of the paper's problem, and why."""
    # Imported here: these load Numba.
    from fastdln.backends.cpu.cost_model import choose
    from fastdln.backends.cpu.packed_chain import chain_layout

    found = {}
    for width, depth in [(26, 700), (100, 4), (300, 30), (1000, 50)]:
        layout = chain_layout((16, *(width,) * (depth - 1), 10), np.dtype("float32"))
        found[f"{width} × {depth}"] = choose(layout, threads.available()).reason
    return found


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()} ({platform.system()} {platform.machine()})"}
    for name in PACKAGES:
        found[name] = _version(name) or "not installed"
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _vectors() -> str:
    """Return the widest vectors that compiled kernels may use."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    for name, text in (
        ("avx512f", "512 bits (AVX-512)"),
        ("avx2", "256 bits (AVX2)"),
        ("avx", "256 bits (AVX)"),
        ("sse2", "128 bits (SSE2)"),
        ("sve", "scalable (SVE)"),
        ("neon", "128 bits (NEON)"),
    ):
        if features.get(name):
            return text
    return UNKNOWN


def _caches(root: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, str]:
    """Return the sizes of the first core's data caches."""
    found = {}
    for index in sorted(Path(root).glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level} cache"] = size
    return found or _mac_caches() or {"caches": UNKNOWN}


def _mac_caches() -> dict[str, str]:
    names = {"L1 cache": "hw.l1dcachesize", "L2 cache": "hw.l2cachesize"}
    sizes = {name: processor.sysctl(key) for name, key in names.items()}
    return {name: memory.readable(int(size)) for name, size in sizes.items() if size}


def _memory() -> dict[str, str]:
    return {
        "installed": memory.readable(memory.installed()),
        "available": memory.readable(memory.available()),
    }


def _blas() -> str:
    """Return the BLAS that NumPy was built with."""
    # mode="dicts" prints nothing and returns the build's record, nested dicts of `Any`.
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', UNKNOWN)} {blas.get('version', '')}".strip()


def _gpu() -> dict[str, str]:
    """Return the GPU that CuPy finds, or why there is none."""
    installed = [f"{name} {number}" for name in CUPY if (number := _version(name))]
    if not installed:
        why = "CuPy is not installed (pip install 'fastdln[cuda12]' or 'fastdln[cuda13]')"
        return {"device": f"none: {why}"}
    return {"CuPy": ", ".join(installed), "device": _cuda_device()}


def _cuda_device() -> str:
    try:
        return require_gpu("gpu").name
    except (ImportError, RuntimeError, ValueError) as error:
        return f"none: {error}"
