"""How every CPU kernel is compiled: one place for the flags.

No fast-math. The sums that must be fast are the register tiles' (`tiles`), whose order and fused
multiply-adds are written out; everything else works element by element and vectorises without. With
sums free to be reordered, or a/b·c to be taken either way, the same source gave other last bits
compiled alone than compiled into a caller: a run from Numba's cache differed from the run that
filled it. And nothing may assume that there is no inf or nan, for a diverged run must stay visible.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numba

# fastmath is stated, not omitted: a kernel called by a user's fast-math function would inherit its
# flags.
SHARED = {"cache": True, "nogil": True, "fastmath": False, "error_model": "numpy"}
# Kernels allocate nothing, and so need not count references to their arrays: Numba counts them
# at every call that it has inlined and every slice, by atomic operations, which took a quarter of
# the time of a layer of width 26.
OPTIONS = {**SHARED, "_nrt": False}
# Whether Numba finds a folder for its cache.
CACHED = True


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return numba.njit's function, cached on disk unless no folder can be written."""
    global CACHED
    if CACHED:
        try:
            return _skips_stale_index(numba.njit(**options)(function))
        except RuntimeError as error:  # no folder for a cache: not beside the source, nor at home
            warnings.warn(
                f"compiled kernels are not kept, so that every process compiles anew: {error}; set"
                " NUMBA_CACHE_DIR to a folder that can be written",
                RuntimeWarning,
                stacklevel=3,
            )
            CACHED = False
    return numba.njit(**{**options, "cache": False})(function)


def _skips_stale_index(dispatcher: Callable[..., Any]) -> Callable[..., Any]:
    """Let a kernel compile anew where its cache names classes that an upgrade has removed.

    Numba unpickles the types in a cache's index, named tuples of this package among them, before it
    compares the index with the source file. An index of an older version stays behind when pip
    replaces the package.
    """
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is None:
        return dispatcher
    load = index._load_index

    def load_or_start_anew() -> dict[Any, str]:
        try:
            found: dict[Any, str] = load()
        except (AttributeError, ImportError):
            return {}
        return found

    index._load_index = load_or_start_anew
    return dispatcher


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel: without the GIL, cached on disk, NumPy's division, rounding as written.

    It may not allocate: buffers are its arguments.
    """
    return _compiled(function, **OPTIONS)


def allocating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, for a function that may allocate and is called rarely."""
    return _compiled(function, **SHARED)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, but inside every kernel that calls it.

    A kernel called by a kernel is optimised again in its caller, and in its caller's caller: with
    nine levels between a training run and its tiles, compiling took twice as long as with three.
    """
    return _compiled(function, **OPTIONS, inline="always")


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, and let LLVM inline it always.

    For functions in vectorised loops, which a remaining call would prevent, and for small ones with
    many call sites: typed once, while a `part` is typed anew at every site. With `team.wait` and
    `team.partition` as parts, the two-pass kernel took a sixth longer to compile.
    """
    return _compiled(function, **OPTIONS, forceinline=True)
