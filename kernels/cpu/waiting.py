"""Words of memory through which threads wait for each other: polling, then sleeping.

A thread polls a word for some tens of microseconds, for on a quiet machine what it waits for comes
within one. Then it gives its processor up: first by `sched_yield`, then asleep in the kernel (a
futex on Linux, `WaitOnAddress` on Windows, a condition variable elsewhere), so that on a shared
machine the missing thread, or any other program, has the processor.

The words are in an array of int64. Its first lines are a `new_words` header; see the constants.
"""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdln.kernels.cpu.jit import inlined, kernel

# Elements of a cache line: words that different threads write are in different lines.
LINE = 8
# The header: threads asleep; whether a thread waited longer than the patience, and whether the team
# stops for that, or is to wait no more because a thread failed; the patience in nanoseconds; the
# mutex and the condition variable where there is no futex.
SLEEPERS, LATE, STOPPED, FAILED = 0, LINE, LINE + 1, LINE + 2
PATIENCE, MUTEX, CONDITION = 2 * LINE, 3 * LINE, 5 * LINE
HEADER = 7 * LINE
# A word from this value on ends all waiting for it: a thread failed, or no work is left.
# A futex compares the lower half of a word only, in which this value differs from all counts.
ENDED = (1 << 61) | 0xFFFFFFFF
# Polls (some 40 µs) before a thread gives its processor up, and yields (about 0.5 µs each while
# nothing else wants the processor) before it sleeps.
SPINS, YIELDS = 2000, 100
# Nanoseconds of waiting from which on a team counts as late, where none are given.
USUAL_PATIENCE = 300_000

_WORD = ir.IntType(64)
_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # of threads of one process


def _sleeping() -> str:
    """Return how threads of this platform sleep: by futex, address or condition variable."""
    if sys.platform == "win32":
        return "address"
    forced = os.environ.get("FASTDLN_SLEEP")  # for tests of the portable way
    if forced != "condition" and sys.platform == "linux" and platform.machine() in _FUTEX_NUMBERS:
        return "futex"
    return "condition"


SLEEPING = _sleeping()


def new_words(count: int, patience: int = USUAL_PATIENCE) -> np.ndarray:
    """Return a header and `count` words, all zero, in lines of a cache that hold nothing else."""
    raw = np.zeros(HEADER + count + 2 * LINE, np.int64)
    start = (-raw.ctypes.data % 64) // 8
    words = raw[start : start + HEADER + count]
    words[PATIENCE] = patience
    if SLEEPING == "condition":
        libc = ctypes.CDLL(None)
        libc.pthread_mutex_init(ctypes.c_void_p(words[MUTEX:].ctypes.data), None)
        libc.pthread_cond_init(ctypes.c_void_p(words[CONDITION:].ctypes.data), None)
    return words


def _pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the address of ``words[index]``, the first two arguments."""
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.gep(data, [args[1]])


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _constant(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _add(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """Add to a word atomically and return its new value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        return builder.add(builder.atomic_rmw("add", pointer, args[2], "seq_cst"), args[2])

    return types.int64(words, types.intp, types.int64), codegen


def _read(typing_context: Any, words: Any, index: Any) -> Any:
    """Return a word; what its writer wrote before is then visible."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(context, builder, signature, args), "seq_cst", 8)

    return types.int64(words, types.intp), codegen


def _write(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """Set a word, after everything written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _pointer(context, builder, signature, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


def _sleep(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """Sleep until the word is woken, unless it is no longer `value`; may return early."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        if SLEEPING == "futex":
            number = _constant(_FUTEX_NUMBERS[platform.machine()])
            low, null = builder.and_(args[2], _constant(0xFFFFFFFF)), _constant(0)
            address = builder.ptrtoint(pointer, _WORD)
            _call(builder, "syscall", _WORD, [number, address, _constant(_FUTEX_WAIT), low, null])
        elif SLEEPING == "address":
            expected = cgutils.alloca_once_value(builder, args[2])
            forever = ir.Constant(ir.IntType(32), 0xFFFFFFFF)
            arguments = [pointer, expected, _constant(8), forever]
            _call(builder, "WaitOnAddress", ir.IntType(32), arguments)
        else:
            _sleep_on_condition(context, builder, signature, args, pointer)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


def _lock_parts(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Any, Any]:
    """Return the addresses of the mutex and the condition variable."""
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.gep(data, [_constant(MUTEX)]), builder.gep(data, [_constant(CONDITION)])


def _sleep_on_condition(
    context: Any, builder: Any, signature: Any, args: Any, pointer: Any
) -> None:
    number = ir.IntType(32)
    mutex, condition = _lock_parts(context, builder, signature, args)
    _call(builder, "pthread_mutex_lock", number, [mutex])
    now = builder.load_atomic(pointer, "seq_cst", 8)
    with builder.if_then(builder.icmp_signed("==", now, args[2])):
        _call(builder, "pthread_cond_wait", number, [condition, mutex])
    _call(builder, "pthread_mutex_unlock", number, [mutex])


def _wake(typing_context: Any, words: Any, index: Any) -> Any:
    """Wake all threads that sleep on the word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature, args)
        if SLEEPING == "futex":
            number = _constant(_FUTEX_NUMBERS[platform.machine()])
            address, all_of_them = builder.ptrtoint(pointer, _WORD), _constant(2**31 - 1)
            arguments = [number, address, _constant(_FUTEX_WAKE), all_of_them]
            _call(builder, "syscall", _WORD, arguments)
        elif SLEEPING == "address":
            _call(builder, "WakeByAddressAll", ir.VoidType(), [pointer])
        else:
            number = ir.IntType(32)
            mutex, condition = _lock_parts(context, builder, signature, args)
            _call(builder, "pthread_mutex_lock", number, [mutex])
            _call(builder, "pthread_cond_broadcast", number, [condition])
            _call(builder, "pthread_mutex_unlock", number, [mutex])
        return context.get_dummy_value()

    return types.void(words, types.intp), codegen


def _nanoseconds(typing_context: Any) -> Any:
    """Return a clock that only runs forward, in nanoseconds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(32)
        time_of = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
        if sys.platform == "win32":
            _call(builder, "GetSystemTimePreciseAsFileTime", ir.VoidType(), [time_of])
            first = builder.load(builder.bitcast(time_of, _WORD.as_pointer()))
            return builder.mul(first, _constant(100))
        monotonic = ir.Constant(number, time.CLOCK_MONOTONIC)
        _call(builder, "clock_gettime", number, [monotonic, time_of])
        seconds, rest = (
            builder.load(builder.gep(time_of, [ir.Constant(number, 0), ir.Constant(number, i)]))
            for i in (0, 1)
        )
        return builder.add(builder.mul(seconds, _constant(10**9)), rest)

    return types.int64(), codegen


def _pause(typing_context: Any) -> Any:
    """Tell an x86 processor that it is polling."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _plain_add(words: np.ndarray, index: int, value: int) -> Any:
    words[index] += value
    return words[index]


def _plain_read(words: np.ndarray, index: int) -> Any:
    return words[index]


def _plain_write(words: np.ndarray, index: int, value: int) -> None:
    words[index] = value


def _nothing(*arguments: Any) -> None:
    """Stand for waking and pausing where threads of plain Python poll."""


add: Callable[..., Any] = _plain_add
read: Callable[..., Any] = _plain_read
write: Callable[..., None] = _plain_write
sleep: Callable[..., None] = _nothing
wake: Callable[..., None] = _nothing
pause: Callable[..., None] = _nothing
nanoseconds: Callable[..., Any] = time.monotonic_ns
yield_processor: Callable[..., Any] = int
if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when Numba is imported
    add, read, write = intrinsic(_add), intrinsic(_read), intrinsic(_write)
    sleep, wake = intrinsic(_sleep), intrinsic(_wake)
    pause, nanoseconds = intrinsic(_pause), intrinsic(_nanoseconds)
    yield_processor = types.ExternalFunction(
        "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
    )
if SLEEPING == "address":
    for _name in ("WaitOnAddress", "WakeByAddressAll"):
        _function = getattr(ctypes.WinDLL("kernelbase"), _name)  # type: ignore[attr-defined]
        llvm.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)


@inlined
def publish(words: np.ndarray, index: int, value: int) -> None:
    """Set a word and wake whoever sleeps until it changes."""
    write(words, index, value)
    if read(words, SLEEPERS) > 0:
        wake(words, index)


@inlined
def await_word(words: np.ndarray, index: int, goal: int) -> bool:
    """Wait until a word is at least `goal`; return whether work goes on (it is below ENDED)."""
    for _ in range(SPINS):
        value = read(words, index)
        if value >= goal:
            return value < ENDED
        pause()
    return _await_slowly(words, index, goal)


@kernel
def _await_slowly(words: np.ndarray, index: int, goal: int) -> bool:
    """Continue `await_word` without keeping the processor busy."""
    begun, yields = nanoseconds(), 0
    value = read(words, index)
    while value < goal:
        if yields < YIELDS:
            yields += 1
            yield_processor()
        else:
            add(words, SLEEPERS, 1)
            if read(words, FAILED) == 0 and read(words, index) == value:
                sleep(words, index, value)
            add(words, SLEEPERS, -1)
        # A thread that had not noticed may have overwritten the word that `fail` has ended.
        if read(words, FAILED) != 0:
            return False
        value = read(words, index)
    if nanoseconds() - begun > words[PATIENCE]:
        write(words, LATE, 1)
    return value < ENDED


@kernel
def _end(words: np.ndarray, index: int) -> None:
    publish(words, index, ENDED)


def end(words: np.ndarray, index: int) -> None:
    """Release, now and later, all threads that wait for a word."""
    _end(words, index)


def fail(words: np.ndarray) -> None:
    """Release, now and later, all threads that wait for any word."""
    words[FAILED] = 1
    for index in range(HEADER, words.size, LINE):
        end(words, index)
