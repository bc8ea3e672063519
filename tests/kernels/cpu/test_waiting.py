"""Threads that wait for a word: awake, asleep, by futex and by condition variable."""

import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

from fastdln.kernels.cpu import jit, waiting
from fastdln.kernels.cpu.waiting import ENDED, HEADER, LATE, LINE, SLEEPERS

WORD = HEADER


@jit.kernel
def await_word(words, index, goal):
    return waiting.await_word(words, index, goal)


@jit.kernel
def publish(words, index, value):
    waiting.publish(words, index, value)


@jit.kernel
def play(words, mine, others, rounds):
    """Exchange rising numbers with another thread."""
    for i in range(1, rounds + 1):
        waiting.publish(words, mine, i)
        if not waiting.await_word(words, others, i):
            return i
    return 0


def waiter(words, goal, found):
    thread = threading.Thread(target=lambda: found.append(await_word(words, WORD, goal)))
    thread.start()
    return thread


def test_words_are_in_lines_of_their_own():
    words = waiting.new_words(3 * LINE, patience=5)
    assert words.ctypes.data % 64 == 0
    assert words.size == HEADER + 3 * LINE
    assert not words[WORD:].any()
    assert words[waiting.PATIENCE] == 5


@pytest.mark.parametrize("delay", [0, 0.05], ids=["awake", "asleep"])
def test_a_thread_waits_until_the_word_is_large_enough(delay):
    words, found = waiting.new_words(LINE), []
    thread = waiter(words, 3, found)
    time.sleep(delay)
    publish(words, WORD, 2)
    time.sleep(delay)
    assert not found
    publish(words, WORD, 4)
    thread.join(10)
    assert found == [True]
    assert words[SLEEPERS] == 0


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="plain Python polls")
def test_a_long_wait_costs_no_processor_time():
    words, found = waiting.new_words(LINE), []
    publish(words, WORD, 0)
    begun = time.process_time()
    thread = waiter(words, 1, found)
    time.sleep(0.5)
    used = time.process_time() - begun
    publish(words, WORD, 1)
    thread.join(10)
    assert found == [True]
    assert used < 0.25  # polling would take 0.5 s


@pytest.mark.parametrize(("patience", "late"), [(10**6, 1), (10**11, 0)])
def test_a_wait_longer_than_the_patience_is_noted(patience, late):
    words, found = waiting.new_words(LINE, patience), []
    thread = waiter(words, 1, found)
    time.sleep(0.1)
    publish(words, WORD, 1)
    thread.join(10)
    assert words[LATE] == late


def test_all_waiters_are_released_now_and_later():
    words, found = waiting.new_words(LINE), []
    threads = [waiter(words, 7, found) for _ in range(3)]
    time.sleep(0.05)
    waiting.end(words, WORD)
    for thread in threads:
        thread.join(10)
    assert found == [False] * 3
    assert not await_word(words, WORD, 9)
    assert words[WORD] == ENDED


def test_nobody_waits_after_a_failure_whatever_others_write():
    """A thread that has not noticed yet overwrites the word."""
    words = waiting.new_words(2 * LINE)
    waiting.fail(words)
    assert words[WORD] == words[WORD + LINE] == ENDED
    publish(words, WORD, 1)
    assert not await_word(words, WORD, 2)


def test_a_futex_tells_the_end_from_every_count():
    assert ENDED & 0xFFFFFFFF == 0xFFFFFFFF


def test_threads_that_wait_for_each_other_never_miss_a_word():
    """More pairs than processors: some of them sleep."""
    rounds, results, threads = 200, [], []
    for _ in range(4):
        words = waiting.new_words(2 * LINE)
        for mine, others in ((WORD, WORD + LINE), (WORD + LINE, WORD)):
            arguments = words, mine, others, rounds
            thread = threading.Thread(target=lambda a=arguments: results.append(play(*a)))
            threads.append(thread)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [0] * 8


@pytest.mark.slow
@pytest.mark.skipif(
    waiting.SLEEPING == "address" or bool(numba.config.DISABLE_JIT),
    reason="a POSIX system and compiled kernels are needed",
)
def test_condition_variables_do_what_a_futex_does(tmp_path):
    environment = os.environ | {
        "FASTDLN_SLEEP": "condition",
        "NUMBA_CACHE_DIR": str(tmp_path),  # kernels are compiled for one way or the other
    }
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    tests += ["-k", "not condition"]
    done = subprocess.run(tests, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    check = "from fastdln.kernels.cpu import waiting; print(waiting.SLEEPING)"
    found = subprocess.run([sys.executable, "-c", check], env=environment, stdout=subprocess.PIPE)
    assert np.char.strip(found.stdout.decode()) == "condition"
