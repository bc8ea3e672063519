"""The pool of waiting threads: every item once, errors, forked processes."""

import os
import subprocess
import sys

import pytest

from fastdln.backends.cpu.thread_pool import spread_items


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once_and_errors_are_raised(workers):
    done = []
    spread_items(done.extend, list(range(100)), workers)
    assert sorted(done) == list(range(100))
    spread_items(done.extend, [], workers)

    def fail(items):
        for item in items:
            if item == 5:
                raise MemoryError("too little")

    with pytest.raises(MemoryError, match="too little"):
        spread_items(fail, list(range(10)), workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_draws_the_same():
    code = """
import os, fastdln
from fastdln.utils import threads
draw = lambda: fastdln.haar_orthogonal(20, size=3000, seed=1).tobytes()
with threads.limited(3):
    first = draw()
    child = os.fork()
    if child == 0:
        os._exit(draw() != first)
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
