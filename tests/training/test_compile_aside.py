"""Another process compiles kernels where that helps; where it does not, nobody notices."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

import fastdln
from fastdln.config import TrainConfig
from fastdln.kernels.cpu import jit
from fastdln.training import compile_aside
from fastdln.training.prepared import prepare
from fastdln.utils import threads

PROBLEM = fastdln.Regression(np.eye(3)[:2], np.ones((2, 3)))
OPTIONS = {"width": 4, "depth": 3, "steps": 1}

needs_jit = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


@pytest.fixture
def cold(monkeypatch):
    """No kernel that draws is in the cache, and there are two threads."""
    monkeypatch.setattr(jit, "is_compiled", lambda kernel, dtype: False)
    monkeypatch.setattr(compile_aside, "_drawn_by_cached_kernels", set())
    with threads.limited(2):
        yield


def prepared(**options):
    return prepare(PROBLEM, TrainConfig(**{**OPTIONS, **options}))


@pytest.fixture
def started(monkeypatch):
    """Programs that were started in place of the other process, which runs another program."""
    found = []
    popen = subprocess.Popen

    def start(program):
        def other(args, **options):
            process = popen([sys.executable, "-c", program], **options)
            found.append((args, process))
            return process

        monkeypatch.setattr(compile_aside.subprocess, "Popen", other)
        return found

    return start


@needs_jit
@pytest.mark.parametrize("program", ["pass", "import os; os._exit(3)", "import missing_module"])
def test_a_process_that_ends_in_any_way_is_waited_for(cold, started, program, capfd):
    found = started(program)
    with compile_aside.training_kernels(prepared(dtype="float32")) as wait:
        wait()
        assert found[0][1].returncode is not None
    assert len(found) == 1
    assert capfd.readouterr() == ("", "")


@needs_jit
def test_a_process_is_ended_by_an_error_and_by_impatience(cold, started, monkeypatch):
    found = started("import time; time.sleep(1000)")
    with pytest.raises(ZeroDivisionError), compile_aside.training_kernels(prepared()):
        raise ZeroDivisionError
    monkeypatch.setattr(compile_aside, "PATIENCE", 0.01)
    with compile_aside.training_kernels(prepared()) as wait:
        wait()
    assert all(process.returncode for _, process in found)


@needs_jit
@pytest.mark.parametrize(
    "options",
    [{"init": "gaussian"}, {"init": "balanced"}, {"init": "zero_asymmetric"}],
)
def test_nothing_is_started_where_layers_need_no_haar_kernel(cold, started, options):
    found = started("pass")
    with compile_aside.training_kernels(prepared(**options)) as wait:
        wait()
    assert not found


@needs_jit
def test_nothing_is_started_on_one_thread_without_a_cache_or_where_no_process_may_be(
    cold, started, monkeypatch
):
    found = started("pass")
    with threads.limited(1), compile_aside.training_kernels(prepared()):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(jit, "CACHED", False)
        with compile_aside.training_kernels(prepared()):
            pass
    for name in (None, "", "/opt/app/program"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", name)
            with compile_aside.training_kernels(prepared()):
                pass
    assert not found

    def refused(**options):
        raise PermissionError

    monkeypatch.setattr(compile_aside.subprocess, "Popen", refused)
    with compile_aside.training_kernels(prepared()) as wait:
        wait()


@needs_jit
def test_nothing_is_started_once_the_kernels_are_compiled(started, monkeypatch):
    fastdln.train(PROBLEM, **OPTIONS)
    monkeypatch.setattr(compile_aside, "_drawn_by_cached_kernels", set())
    found = started("pass")
    with threads.limited(2):
        fastdln.train(PROBLEM, **OPTIONS)
    assert not found


@needs_jit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_other_process_leaves_the_kernels_that_a_run_loads(tmp_path, dtype):
    code = f"""
import fastdln
from fastdln.kernels.cpu.regression_loop import descend
problem = fastdln.Regression([[1, 2, 3], [2, -1, 1]], [[1, 0, 2]])
fastdln.train(problem, width=6, depth=3, steps=2, dtype={dtype!r})
print(sum(descend.stats.cache_hits.values()), sum(descend.stats.cache_misses.values()))
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "FASTDLN_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1 0\n", "")
