"""Compile all CPU kernels with one set of flags.

No fast-math. The sums that must be fast are the register tiles' (`tiles`), whose order and fused
multiply-adds are written out; everything else works element by element and vectorises without. With
sums free to be reordered, or a/b·c to be taken either way, the same source gave other last bits
compiled alone than compiled into a caller: a run from Numba's cache differed from the run that
filled it. And nothing may assume that there is no inf or nan, for a diverged run must stay visible.
"""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba.extending import register_jitable

from fastdln.kernels.cpu.compile_time import counted, uncollected
from fastdln.kernels.cpu.compiler import KernelCompiler

# fastmath is set explicitly: a kernel called by a user's fast-math function would otherwise inherit
# that function's flags. Nothing calls kernels from C.
SHARED = {
    "cache": True,
    "nogil": True,
    "fastmath": False,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
}
# Kernels allocate nothing, so reference counts of arrays are unnecessary. Numba would update them
# by atomic operations at every inlined call and every slice, which took a quarter of the time of a
# layer of width 26.
OPTIONS = {**SHARED, "_nrt": False}
# Whether Numba finds a folder for its cache.
CACHED = True


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile by numba.njit, with a cache on disk where a cache folder is writable."""
    global CACHED
    if CACHED:
        try:
            return _counts_compiling(_skips_stale_index(_njit(**options)(function)))
        except RuntimeError as error:  # no writable cache folder, beside the source or at home
            warnings.warn(
                f"compiled kernels are not kept, so that every process compiles anew: {error}; set"
                " NUMBA_CACHE_DIR to a folder that can be written",
                RuntimeWarning,
                stacklevel=3,
            )
            CACHED = False
    return _counts_compiling(_njit(**{**options, "cache": False})(function))


def _names_files_by_signature(index: Any) -> None:
    """Name a kernel's files in the cache by the types that it is compiled for.

    Numba numbers them. Of two processes that compile a kernel for two dtypes at the same time, both
    would write number 1, and whichever index was written last could name the other's code.
    """
    save, pattern = index.save, index._data_name_pattern

    def save_under_own_name(key: tuple[Any, ...], data: Any) -> None:
        digest = hashlib.sha256(repr(key[:2]).encode()).hexdigest()[:8]
        # Numba holds its compiler's lock.
        index._data_name_pattern = pattern.replace(".{number", f".{digest}-{{number")
        save(key, data)

    index.save = save_under_own_name


def _njit(**options: Any) -> Callable[..., Any]:
    """Return numba.njit with the passes of `compiler`."""
    found: Callable[..., Any] = numba.njit(pipeline_class=KernelCompiler, **options)
    return found


def _counts_compiling(dispatcher: Callable[..., Any]) -> Callable[..., Any]:
    """Count a kernel's compiling and loading from the cache in `compile_time.compile_seconds`.

    Numba's dispatcher calls this method when a call's types are new, and nothing else in it.
    """
    if hasattr(dispatcher, "_compile_for_args"):  # not where JIT is off
        dispatcher._compile_for_args = counted(uncollected(dispatcher._compile_for_args))
    return dispatcher


def _skips_stale_index(dispatcher: Callable[..., Any]) -> Callable[..., Any]:
    """Make a kernel recompile if its cache names classes that an upgrade has removed.

    Numba unpickles the types in a cache's index, which include named tuples of this package, before
    it compares the index with the source file. The index of an older version remains on disk when
    pip replaces the package.
    """
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is None:
        return dispatcher
    load = index._load_index
    _names_files_by_signature(index)

    def load_or_start_anew() -> dict[Any, str]:
        try:
            found: dict[Any, str] = load()
        except (AttributeError, ImportError):
            return {}
        return found

    index._load_index = load_or_start_anew
    return dispatcher


def keeps_kernels() -> bool:
    """Return whether compiled kernels are kept on disk, for other processes too."""
    return CACHED and not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def cache_folder() -> str:
    """Return the folder that NUMBA_CACHE_DIR gave, or "" for the one beside the sources."""
    return str(numba.config.CACHE_DIR or "")  # type: ignore[attr-defined]


def is_compiled(dispatcher: Callable[..., Any], dtype: str) -> bool:
    """Return whether a kernel is loaded, or in the cache, for some arrays of this dtype."""
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if f"({dtype}," in str(getattr(dispatcher, "signatures", "")):
        return True
    try:
        return index is not None and any(f"({dtype}," in str(key[0]) for key in index._load_index())
    except OSError:
        return False


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel: without the GIL, cached on disk, NumPy's division, no fast-math.

    A kernel must not allocate: buffers are arguments.
    """
    return _compiled(function, **OPTIONS)


def allocating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, for a function that may allocate and is called rarely."""
    return _compiled(function, **SHARED)


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile as `kernel` does, but inside every kernel that calls it.

    LLVM optimises a kernel again in its caller, and in the caller's caller: with nine levels of
    kernels between a training run and its tiles, compiling took twice as long as with three.
    """
    return _compiled(function, **OPTIONS, inline="always")


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let kernels call a function that LLVM always inlines; called from Python, it is not compiled.

    For functions in loops that a remaining call would keep from vectorising, and for small
    functions with many call sites: Numba types an inlined function once, but a `part` again at
    every call site. With `team.wait` and `team.partition` as parts, the two-pass kernel took a
    sixth longer to compile. The wrappers for calls from Python and from C, left out here, were half
    of what a small function takes to compile.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    options = {**OPTIONS, "cache": False, "forceinline": True, "pipeline_class": KernelCompiler}
    compiled: Callable[..., Any] = register_jitable(**options)(function)
    return compiled
