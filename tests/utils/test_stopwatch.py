"""Compiling is told apart from the rest of the time."""

import time

import pytest

from fastdln.kernels.cpu.compile_time import charge
from fastdln.utils.stopwatch import Stopwatch


def test_compiling_is_not_in_the_seconds():
    watch, begun = Stopwatch(), time.perf_counter()
    time.sleep(0.02)
    charge(0.015)
    seconds, compiling = watch.read()
    assert compiling == pytest.approx(0.015)
    assert 0.005 <= seconds <= time.perf_counter() - begun


def test_it_continues_from_a_reading():
    seconds, compiling = Stopwatch(10.0, 5.0).read()
    assert seconds >= 10
    assert compiling == 5


def test_compiling_is_at_most_the_whole():
    watch = Stopwatch()
    charge(1000)
    seconds, compiling = watch.read()
    assert seconds == 0
    assert 0 <= compiling < 1000
