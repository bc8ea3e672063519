"""How every CPU kernel is compiled: one place for the flags.

No fast-math. The sums that must be fast are the register tiles' (`tiles`), whose order and fused
multiply-adds are written out; everything else works entry by entry and vectorises without. With
sums free to be reordered, or a/b·c to be taken either way, the same source gave other last bits
compiled alone than compiled into a caller: a run from Numba's cache differed from the run that
filled it. And nothing may assume that there is no inf or nan, for a diverged run must stay visible.
"""

from collections.abc import Callable
from typing import Any

import numba

# fastmath is stated, not left out: a kernel called by somebody's fast-math function would inherit
# its flags.
SHARED = {"cache": True, "nogil": True, "fastmath": False, "error_model": "numpy"}
# Kernels allocate nothing, and so need not count references to their arrays: Numba counts them
# at every call that it has inlined and every slice, by atomic operations, which took a quarter of
# the time of a layer of width 26.
OPTIONS = {**SHARED, "_nrt": False}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel: without the GIL, cached on disk, NumPy's division, rounding as written.

    It may not allocate: buffers are its arguments.
    """
    return numba.njit(**OPTIONS)(function)


def allocating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, for a function that may allocate: it is called once in a while."""
    return numba.njit(**SHARED)(function)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, but inside every kernel that calls it.

    A kernel called by a kernel is optimised again in its caller, and in its caller's caller: with
    nine levels between a training run and its tiles, compiling took twice as long as with three.
    """
    return numba.njit(**OPTIONS, inline="always")(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, and let LLVM inline it always.

    For what is called inside vectorised loops, which a call left over would stop, and is so small
    that `part` would cost more in type inference.
    """
    return numba.njit(**OPTIONS, forceinline=True)(function)
