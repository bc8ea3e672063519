"""How every CPU kernel is compiled: one place for the flags."""

from collections.abc import Callable
from typing import Any

import numba

# Reassociation and contraction let LLVM vectorise sums and fuse multiply-adds. nnan and ninf
# are left out on purpose: a diverged run must stay visible as inf or nan.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel: without the GIL, cached on disk, NumPy's division semantics."""
    return numba.njit(cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy")(function)


def exact_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel whose every rounding is as written, so that its values can be pinned."""
    # Stated, not left out: a kernel called by a fast-math kernel would inherit its flags.
    return numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function)
