"""Measure training as people use it: short runs, teams, busy machines, two processes at once.

``python -m benchmarks.everyday`` prints all of it as Markdown, ``python -m benchmarks.everyday
short teams handovers busy pairs`` parts of it. Many small networks, reduced results, whole figures
and first calls have files of their own: `many`, `lifting`, `figure`, `first_call`.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

import fastdln
from fastdln.backends.cpu.cost_model import choose
from fastdln.backends.cpu.packed_chain import chain_layout
from fastdln.kernels.cpu.team import new_barrier, wait
from fastdln.kernels.cpu.waiting import HEADER, LINE, await_word, new_words, publish
from fastdln.utils import threads

from . import chain_peers, common
from .chain_steps import Steps, roofline, step_times

Case = tuple[str, str]
# Width × depth and dtype.
SHORT: list[Case] = [
    ("26x700", "float32"),
    ("100x200", "float64"),
    ("300x30", "float32"),
    ("1000x50", "float32"),
]
TEAMS: list[Case] = [
    ("26x700", "float32"),
    ("100x200", "float32"),
    ("100x200", "float64"),
    ("300x30", "float32"),
    ("1000x50", "float32"),
]
BUSY: list[Case] = [("26x700", "float32"), ("100x200", "float64")]
# Steps of a short run.
STEPS = (5, 20, 100, 400)
# A program that keeps one processor busy.
SPIN = "import sys; print('on', flush=True)\nwhile True: pass"
# A program that trains until it is told when to stop, and prints its steps per second.
TRAIN = """
import sys, time
from benchmarks.everyday import options
import fastdln
case, dtype, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
marks = []
def mark(step, loss):
    now = time.perf_counter()
    if not marks:
        print("on", flush=True)
        sys.stdin.readline()
        now = time.perf_counter()
    marks.append((now, step))
    if now - marks[0][0] > seconds:
        raise TimeoutError
try:
    fastdln.train(fastdln.paper_regression(), **options(case, dtype), threads=count, steps=10**7,
                  callback=mark)
except TimeoutError:
    pass
print((marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0]))
"""


def options(case: str, dtype: str) -> dict[str, Any]:
    """Return the options of a run on the paper's data that ends neither early nor late."""
    width, depth = common.shape_of(case)
    return {
        "width": width,
        "depth": depth,
        "init": "gaussian",
        "dtype": dtype,
        "tolerance": 0.0,
        "learning_rate": 1e-9,
    }


def short_runs(rounds: int = 5) -> None:
    """Print the seconds a step of short runs over those of a long run, without drawing."""
    print(
        "\n| width × depth | dtype | " + " | ".join(f"{n} steps" for n in STEPS) + " | first 20 |"
    )
    print("|---" * (3 + len(STEPS)) + "|")
    problem = fastdln.paper_regression()
    for case, dtype in SHORT:
        given = options(case, dtype)
        counts = [n for n in STEPS if n <= 100 or case != "1000x50"]

        def seconds(steps: int, given: dict[str, Any] = given) -> float:
            return fastdln.train(problem, **given, steps=steps).seconds

        first = float(common.in_new_process(FIRST, case, dtype))
        seconds(20)
        found: dict[int, list[float]] = {n: [] for n in counts}
        long: list[float] = []
        for _ in range(rounds):
            long.append(common.seconds_per_step(**given))
            nothing = min(seconds(0) for _ in range(3))
            for n in counts:
                found[n].append((seconds(n) - nothing) / n)
        step = statistics.median(long)
        ratios = [f"{statistics.median(found[n]) / step:.2f}" if n in found else "" for n in STEPS]
        print(f"| {case} | {dtype} | {' | '.join(ratios)} | {first / step:.2f} |", flush=True)


FIRST = """
import sys
from benchmarks.everyday import options
import fastdln
case, dtype = sys.argv[1:3]
problem = fastdln.paper_regression()
fastdln.train(problem, **options(case, dtype), steps=0)
first = fastdln.train(problem, **options(case, dtype), steps=20).seconds
nothing = min(fastdln.train(problem, **options(case, dtype), steps=0).seconds for _ in range(3))
print((first - nothing) / 20)
"""


@numba.njit(nogil=True)
def _barriers(barrier: np.ndarray, count: int) -> None:
    for _ in range(count):
        wait(barrier, 2)


def barrier_seconds(count: int = 50_000) -> float:
    """Return the seconds of a barrier of two threads: a round trip between two cores."""
    barrier = new_barrier()
    other = threading.Thread(target=_barriers, args=(barrier, count))
    begun = time.perf_counter()
    other.start()
    _barriers(barrier, count)
    other.join()
    return (time.perf_counter() - begun) / count


@numba.njit(nogil=True)
def _exchange(words: np.ndarray, rows: np.ndarray, mine: int, count: int) -> float:
    """Take turns with another thread at reading the rows that it wrote and writing others."""
    total = 0.0
    for i in range(count):
        if not await_word(words, HEADER + LINE * mine, i + mine):
            break
        for j in range(rows.shape[1]):
            total += rows[1 - mine, j]
            rows[mine, j] = total
        publish(words, HEADER + LINE * (1 - mine), i + 1)
    return total


def handover_seconds(size: int, count: int = 4000) -> float:
    """Return the seconds of handing `size` bytes from one thread to another, its work left out."""
    rows = np.zeros((2, size // 4), np.float32)

    def run() -> float:
        words = new_words(2 * LINE, 10**10)
        other = threading.Thread(target=_exchange, args=(words, rows, 1, count))
        begun = time.perf_counter()
        other.start()
        _exchange(words, rows, 0, count)
        other.join()
        return (time.perf_counter() - begun) / (2 * count)

    def alone() -> float:
        words = np.full(HEADER + 2 * LINE, count + 1, np.int64)
        words[0] = 0
        begun = time.perf_counter()
        _exchange(words, rows, 0, count)
        return (time.perf_counter() - begun) / count

    return statistics.median(run() for _ in range(9)) - min(alone() for _ in range(5))


def handovers() -> None:
    """Print what a barrier and a handover cost, by the size of the network."""
    _barriers(new_barrier(), 0)
    handover_seconds(64, 2)
    print(
        "\n| width × depth | dtype | barrier ns | bytes handed over | handover ns | ns a KiB more |"
    )
    print("|---" * 6 + "|")
    for case, dtype in TEAMS:
        layout = _layout(case, dtype)
        size = layout.q_padded // 2 * layout.widest * layout.dtype.itemsize
        barrier = statistics.median(barrier_seconds() for _ in range(9))
        empty, full = handover_seconds(0), handover_seconds(size)
        more = (full - empty) / (size / 1024)
        cells = [f"{1e9 * barrier:.0f}", f"{size}", f"{1e9 * full:.0f}", f"{1e9 * more:.0f}"]
        print(f"| {case} | {dtype} | {' | '.join(cells)} |", flush=True)


def independent_scaling(case: str, dtype: str) -> float:
    """Return how much two threads do of one thread's work when each trains its own network."""
    width, depth = common.shape_of(case)
    half = f"{width}x{max(depth // 2, 2)}"
    both = [Steps(half, dtype, team=1) for _ in range(2)]
    count = max(4, int(0.05 / step_times({"one": both[0].run}, 0.05)["one"]))

    def together() -> None:
        other = threading.Thread(target=both[1].run, args=(count,))
        other.start()
        both[0].run(count)
        other.join()

    seconds = common.medians({"one": lambda: both[0].run(count), "two": together})
    return 2 * seconds["one"] / seconds["two"]


def teams(rounds: int = 4) -> None:
    """Print how many times as fast two threads are as one: best team and `train` as called."""
    _barriers(new_barrier(), 0)
    print(
        "\n| width × depth | dtype | barrier ns | independent | " + "team over one thread | "
        "`train`, two threads over one | over the roofline |"
    )
    print("|---" * 7 + "|")
    for case, dtype in TEAMS:
        team = choose(_layout(case, dtype), 2).team
        rows = []
        for _ in range(rounds):
            alone = Steps(case, dtype, team=1)
            ours = Steps(case, dtype, team=team.size, sharing=team.sharing)
            seconds = step_times({"alone": alone.run, "team": ours.run}, 0.1)
            one, two = (common.seconds_per_step(**options(case, dtype), threads=n) for n in (1, 2))
            limit = roofline(
                case, dtype, common.matmul_flops(dtype), common.copied_bytes_per_second()
            )
            scaling = independent_scaling(case, dtype)
            rows.append(
                (
                    1e9 * barrier_seconds(),
                    scaling,
                    seconds["alone"] / seconds["team"],
                    one / two,
                    two / limit,
                )
            )
        columns = [
            f"{min(column):.{digits}f}–{max(column):.{digits}f}"
            for column, digits in zip(zip(*rows, strict=True), (0, 2, 2, 2, 2), strict=True)
        ]
        print(f"| {case} | {dtype} | {' | '.join(columns)} |", flush=True)


def _layout(case: str, dtype: str) -> Any:
    width, depth = common.shape_of(case)
    widths = (chain_peers.D, *(width,) * (depth - 1), chain_peers.Q)
    return chain_layout(widths, np.dtype(dtype))


@contextlib.contextmanager
def busy_processor() -> Iterator[None]:
    """Keep one processor busy inside the block."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield
        finally:
            other.kill()


def busy(rounds: int = 3) -> None:
    """Print fastdln's lead over the fastest peer, quiet and beside a busy thread."""
    leads = "quiet | beside a busy thread | of the quiet lead"
    print(f"\n| width × depth | dtype | fastest peer | {leads} |")
    print("|---" * 6 + "|")
    for case, dtype in BUSY:
        found: dict[bool, list[float]] = {False: [], True: []}
        fastest = ""
        for _ in range(rounds):
            for loaded in (False, True):
                with busy_processor() if loaded else contextlib.nullcontext():
                    seconds, fastest = _lead(case, dtype)
                found[loaded].append(seconds)
        quiet, loaded_lead = (statistics.median(found[key]) for key in (False, True))
        print(
            f"| {case} | {dtype} | {fastest} | {quiet:.1f} | {loaded_lead:.1f} |"
            f" {loaded_lead / quiet:.2f} |",
            flush=True,
        )


def _lead(case: str, dtype: str) -> tuple[float, str]:
    """Return the fastest peer's time a step over that of `train`, and the peer."""
    ours = common.seconds_per_step(**options(case, dtype))
    runs: dict[str, Callable[[int], None]] = {
        name: chain_peers.MAKERS[name](case, dtype) for name in chain_peers.available()
    }
    theirs = step_times(runs, 0.2)
    name = min(theirs, key=lambda each: theirs[each])
    return theirs[name] / ours, name


def pairs(rounds: int = 3, seconds: float = 3.0) -> None:
    """Print what two processes that train at once do, over one thread each."""
    print("\n| width × depth | dtype | as they are, over one thread each |")
    print("|---" * 3 + "|")
    for case, dtype in BUSY:
        ratios = []
        for _ in range(rounds):
            single, free = (
                _together(case, dtype, count, seconds) for count in (1, threads.available())
            )
            ratios.append(free / single)
        print(f"| {case} | {dtype} | {min(ratios):.2f}–{max(ratios):.2f} |", flush=True)


def _together(case: str, dtype: str, count: int, seconds: float) -> float:
    """Return the steps per second of two processes together, each of at most `count` threads."""
    command = [sys.executable, "-c", TRAIN, case, dtype, str(count), str(seconds)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        process.stdout.readline()
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in both)


PARTS: dict[str, Callable[[], None]] = {
    "short": short_runs,
    "teams": teams,
    "handovers": handovers,
    "busy": busy,
    "pairs": pairs,
}


if __name__ == "__main__":
    for part in sys.argv[1:] or list(PARTS):
        PARTS[part]()
