"""Source text of the kernels: each .cu file joined with the declarations and headers it needs."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fastdln.kernels.cuda.declarations import text

HERE = Path(__file__).resolve().parent
# Headers of each file of kernels, in addition to primitives, declarations and vectors.
NEEDED = {
    "zigzag": ("partition", "weight_ring", "layer_update", "flagged_exchange", "reductions"),
    "two_pass": (),
    "random": ("normals",),
    "haar": ("normals",),
}
NAMES = tuple(NEEDED)
# Compute capabilities from 8.0 on: sm_80 A100, sm_90 H100/H200, sm_100 B200, sm_120 RTX 50.
ARCHITECTURES = ("80", "90", "100", "120")

Constants = tuple[tuple[str, Any], ...]


@cache
def source(name: str, primitives: str = "") -> str:
    """Return the text of a file of kernels without includes, which caches keyed by text ignore.

    `primitives` replaces the device's primitives in tests without a GPU.
    """
    first = primitives or _read("primitives.cuh")
    rest = ["vectors.cuh", *(f"{part}.cuh" for part in NEEDED[name]), f"{name}.cu"]
    return "\n".join([first, text(name), *map(_read, rest)])


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def defines(dtype: Any, constants: Constants = ()) -> list[str]:
    """Return the compiler's definitions of the element type and of a kernel's constants."""
    kind = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    return [f"-DREAL={kind}", *(f"-D{name}={value}" for name, value in constants)]
