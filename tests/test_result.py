"""The result of a run: losses relative to the first one, and times."""

import os
import subprocess
import sys

import numpy as np

import fastdln


def test_losses_are_relative_to_the_first(rng):
    problem = fastdln.Regression(rng.standard_normal((4, 6)), rng.standard_normal((2, 6)))
    r = fastdln.train(problem, width=5, depth=3, steps=7)
    np.testing.assert_array_equal(r.relative_loss, r.loss / r.loss[0])
    assert f"relative loss {r.relative_loss[-1]:.3g}" in repr(r)


def test_a_loss_that_starts_at_zero_has_converged(rng):
    problem = fastdln.Regression(rng.standard_normal((4, 6)), np.zeros((2, 6)))
    r = fastdln.train(problem, width=5, depth=3, steps=7, init="zero_asymmetric")
    assert (r.status, r.steps_taken) == ("converged", 0)
    np.testing.assert_array_equal(r.relative_loss, [0.0])


SCRIPT = """
import time
import fastdln
problem = fastdln.Regression([[1.0, 2.0]], [[3.0, 4.0]])
fastdln.train
for _ in range(2):
    begun = time.perf_counter()
    run = fastdln.train(problem, width=3, depth=2, init="gaussian", steps=5, resumable=True)
    print(run.seconds, run.compile_seconds, time.perf_counter() - begun)
for _ in range(2):
    many = fastdln.train_many(problem, seeds=[0, 1], width=3, depth=2, init="gaussian", steps=5)
print(many[0].compile_seconds)
print(fastdln.resume(run, steps=2).compile_seconds)
"""


def test_compiling_and_loading_kernels_is_told_apart():
    environment = os.environ | {"FASTDLN_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    first, second, *others = (tuple(map(float, line.split())) for line in run.stdout.splitlines())
    seconds, compiling, whole = first
    # Not without JIT.
    assert compiling > 0 or os.environ.get("NUMBA_DISABLE_JIT") == "1"
    assert seconds + compiling <= whole
    assert second[1] == 0
    # Of train_many and resume; other kernels than train's were loaded in the first train_many.
    assert others == [(0.0,), (0.0,)]
