"""One seed is one result: whether kernels were just compiled or come from the cache."""

import os
import subprocess
import sys

PROGRAM = """
import fastdln
problem = fastdln.paper_regression()
for momentum in (0.0, 0.5):
    run = fastdln.train(problem, width=30, depth=6, init="gaussian", steps=50, momentum=momentum,
                        learning_rate=1e-4)
    print(*[loss.hex() for loss in run.loss])
"""


def test_a_run_from_the_compile_cache_has_the_bits_of_the_run_that_filled_it(tmp_path):
    def losses():
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        return run.stdout

    compiled = losses()
    assert len(compiled.split()) == 2 * 51
    assert losses() == compiled
