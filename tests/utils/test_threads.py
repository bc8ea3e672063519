"""How many threads a call may use; and teams end even if a member cannot be started or fails."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import packed
import pytest

from fastdln.kernels.cpu import two_pass
from fastdln.kernels.cpu.compile_time import charge, compile_seconds
from fastdln.kernels.cpu.groups import Member
from fastdln.kernels.cpu.team import new_barrier
from fastdln.utils import threads


class LastThreads(ThreadPoolExecutor):
    """A pool that can start one thread only."""

    left = 0

    def submit(self, *arguments):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(*arguments)


@pytest.fixture
def work(rng):
    """Return pass 1 of a network of many layers, for a member of a team."""
    widths = (5, *[40] * 30, 3)
    network = packed.Packed(packed.random_layers(widths, rng), "float64")
    return lambda *member: two_pass.suffix_products(network.network, Member(*member))


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_was_never_started(size, work):
    with LastThreads(size) as pool, pytest.raises(KeyboardInterrupt):
        threads.run_team(pool, size, work, new_barrier())


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_failed(size, work):
    def failing(rank, size, barrier):
        if rank == size - 1:
            raise MemoryError("no memory")
        return work(rank, size, barrier)

    with ThreadPoolExecutor(size) as pool, pytest.raises(MemoryError, match="no memory"):
        threads.run_team(pool, size, failing, new_barrier())


def test_the_first_member_gives_the_result_and_the_slowest_compiling_counts():
    def work(rank, size, barrier):
        charge(0.5 + rank)
        return rank

    before = compile_seconds()
    with ThreadPoolExecutor(3) as pool:
        assert threads.run_team(pool, 3, work, new_barrier()) == 0
    assert compile_seconds() - before == pytest.approx(2.5)
    with threads.limited(3):
        assert threads.spread(lambda rank: work(rank, 3, None), [(0,), (1,), (2,)]) == [0, 1, 2]
    assert compile_seconds() - before == pytest.approx(5.0)


LIMITS = ("FASTDLN_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
SCRIPT = """
import os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, {int(sys.argv[1])})
from fastdln.utils import threads
print(threads.processors(), threads.available())
"""


def found(*arguments, **variables):
    """Return the processors and the available threads of a new process."""
    environment = {k: v for k, v in os.environ.items() if k not in LIMITS} | variables
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, run.stdout.split()))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux has affinity masks")
def test_the_affinity_mask_is_respected():
    one = str(min(os.sched_getaffinity(0)))
    assert found(one) == (1, 1)
    assert found(one, FASTDLN_NUM_THREADS="3") == (1, 3)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_the_limits_of_other_libraries_are_respected(name):
    most = threads.processors()
    assert found(**{name: "1"}) == (most, 1)
    assert found(**{name: "4096"}) == (most, most)
    assert found(**{name: "1", "FASTDLN_NUM_THREADS": "2"}) == (most, 2)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"OMP_NUM_THREADS": " 1 , 4"}, 1),
        ({"OMP_NUM_THREADS": "4096", "NUMBA_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": ""}, None),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": "-1"}, None),
        ({"OMP_NUM_THREADS": "1.5"}, None),
        ({"OMP_NUM_THREADS": "one"}, None),
        ({"NUMBA_NUM_THREADS": "one"}, None),
        ({"FASTDLN_NUM_THREADS": "5", "OMP_NUM_THREADS": "1"}, 5),
    ],
)
def test_the_variables_and_their_malformed_values(variables, expected):
    # None: as without the variables.
    assert threads._default(variables) == (expected or threads.processors())


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "two"])
def test_a_malformed_variable_of_this_package_is_an_error(text, monkeypatch):
    monkeypatch.setenv("FASTDLN_NUM_THREADS", text)
    with pytest.raises(ValueError, match=f"FASTDLN_NUM_THREADS is '{text}'; it must be a positive"):
        threads.available()


@pytest.mark.parametrize(("quota", "expected"), [(50_000, 1), (409_600_000, None)])
def test_the_quota_of_control_groups_is_respected(quota, expected, tmp_path):
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"30 23 0:1 / {tmp_path} rw - cgroup2 cgroup rw\n")
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert threads.processors(tmp_path) == (expected or threads.processors())


def test_the_quota_is_read_rarely():
    threads.available()
    reads = threads._quota.cache_info().misses
    for _ in range(1000):
        threads.available()
    assert threads._quota.cache_info().misses <= reads + 1


def test_blocks_nest_and_an_inner_one_only_lowers():
    with threads.limited(3):
        assert threads.available() == 3
        with threads.limited(5):
            assert threads.available() == 3
        with threads.limited(None):
            assert threads.available() == 3
        with threads.limited(2):
            assert threads.available() == 2
        assert threads.available() == 3


def test_work_spread_over_threads_shares_the_limit():
    with threads.limited(6):
        assert threads.spread(threads.available, [()] * 2) == [3, 3]
        assert threads.spread(threads.available, [()] * 50) == [1] * 50
        assert threads.spread(threads.available, [()]) == [6]


def test_a_number_of_threads_is_one_of_the_processors():
    most = threads.processors()
    assert threads.checked("threads", most) == most
    for wrong in (0, -1, most + 1):
        words = f"threads must be .*{most}, the processors that this process may use, not {wrong}"
        with pytest.raises(ValueError, match=words):
            threads.checked("threads", wrong)
    for wrong in (1.0, "1", True, [1]):
        with pytest.raises(TypeError, match="threads must be a whole number of at least 1"):
            threads.checked("threads", wrong)


def test_a_limit_may_rise_while_a_call_runs():
    by_now = 1
    with threads.limited(4):
        most, count = threads.allowance()
        assert (most, count()) == (4, 4)
        with threads.limited(1, (3, lambda: by_now)):
            assert threads.available() == 1
            most, count = threads.allowance()
            assert (most, count()) == (3, 1)
            with threads.limited(None):
                assert threads.allowance()[0] == 3
            with threads.limited(2):
                capped, capped_count = threads.allowance()
            by_now = 3
            assert count() == 3
            assert (capped, capped_count()) == (2, 2)
    assert threads.allowance()[0] == threads.available()
