"""Time the CPU chain kernels against peers, the roofline, depth and width, and in batches.

``python -m benchmarks.chain`` prints the table of RESULTS.md, and ``python -m benchmarks.chain
calibrate`` prints the constants of `fastdln.backends.cpu.cost_model`.
"""

import statistics
import sys
from collections.abc import Callable

from fastdln.backends.cpu.cost_model import Choice, segment_count

from . import chain_peers, common
from .chain_steps import DTYPES, Steps, roofline, step_times

# The sizes of RESULTS.md, smallest first.
CASES = ["100x4", "26x700", "100x200", "300x30", "1000x50"]


class Step:
    """Seconds of a step in a long run, by every kernel."""

    params = (["300x30"], DTYPES, ["two-pass", "zigzag"])
    param_names = ("width x depth", "dtype", "kernel")
    unit = "s"
    timeout = 300

    def setup(self, case: str, dtype: str, kernel: str) -> None:
        self.steps = Steps(case, dtype, kernel)

    def track_step(self, case: str, dtype: str, kernel: str) -> float:
        return step_times({"us": self.steps.run}, 0.02)["us"]


class Peers:
    """Ratio of fastdln's time to a peer's for the same step."""

    params = (["100x4", "100x200"], ["float32"], chain_peers.PEERS)
    param_names = ("width x depth", "dtype", "peer")
    unit = "ratio"
    timeout = 600

    def setup(self, case: str, dtype: str, name: str) -> None:
        peer = chain_peers.MAKERS[name](case, dtype)
        self.runs = {name: peer, "fastdln": Steps(case, dtype).run}

    def track_time_over_peer(self, case: str, dtype: str, name: str) -> float:
        return common.ours_over_fastest("fastdln", step_times(self.runs, 0.05))


class Roofline:
    """Ratio of fastdln's time to the least that the machine's measured rates allow."""

    params = (["300x30"], DTYPES)
    param_names = ("width x depth", "dtype")
    unit = "ratio"
    timeout = 600

    def track_time_over_roofline(self, case: str, dtype: str) -> float:
        limits = common.matmul_flops(dtype, 1024), common.copied_bytes_per_second(1 << 26)
        seconds = step_times({"fastdln": Steps(case, dtype).run}, 0.05)["fastdln"]
        return seconds / roofline(case, dtype, *limits)


class Growth:
    """Seconds per layer against depth."""

    params = ([100, 3000],)
    param_names = ("depth",)
    unit = "s"
    timeout = 300

    def track_seconds_per_layer(self, depth: int) -> float:
        run = Steps(f"26x{depth}", "float32").run
        return step_times({"us": run}, 0.02)["us"] / depth


class Width:
    """Seconds per 10⁹ flops against width."""

    params = ([16, 1024],)
    param_names = ("width",)
    unit = "s"
    timeout = 300

    def track_seconds_per_gigaflop(self, width: int) -> float:
        steps = Steps(f"{width}x10", "float32")
        return step_times({"us": steps.run}, 0.05)["us"] / (
            6e-9 * chain_peers.Q * steps.layout.size
        )


def table(dtypes: list[str], cases: list[str], rounds: int = 5) -> None:
    """Print seconds and ratios of every case as Markdown: medians over rounds of all cases.

    Several rounds are needed because a shared machine changes within a minute, for example whether
    its two processors share a cache.
    """
    names = chain_peers.available()
    rows = [(case, dtype) for dtype in dtypes for case in cases]
    found: dict[tuple[str, str], list[dict[str, float]]] = {row: [] for row in rows}
    limits: dict[str, list[float]] = {name: [] for name in ("copy", *dtypes)}
    kernels: dict[tuple[str, str], str] = {}
    for _ in range(rounds):
        limits["copy"].append(common.copied_bytes_per_second())
        for dtype in dtypes:
            limits[dtype].append(common.matmul_flops(dtype))
        for case, dtype in rows:
            ours = Steps(case, dtype)
            kernels[case, dtype] = chosen(ours.choice)
            runs: dict[str, Callable[[int], None]] = {"fastdln": ours.run}
            runs |= {name: chain_peers.MAKERS[name](case, dtype) for name in names}
            found[case, dtype].append(step_times(runs, 0.05))
    rates = {name: statistics.median(values) for name, values in limits.items()}
    print(f"| width × depth | dtype | fastdln ms | kernel | {' | '.join(names)} | roofline |")
    print("|---" * (5 + len(names)) + "|")
    for case, dtype in rows:
        taken = found[case, dtype]
        ours_ms = statistics.median(t["fastdln"] for t in taken) * 1e3
        ratios = [statistics.median(t[name] / t["fastdln"] for t in taken) for name in names]
        limit = ours_ms / 1e3 / roofline(case, dtype, rates[dtype], rates["copy"])
        cells = [case, dtype, f"{ours_ms:.3g}", kernels[case, dtype]]
        cells += [*(f"{ratio:.1f}×" for ratio in ratios), f"{limit:.2f}"]
        print(f"| {' | '.join(cells)} |")
    matmul = ", ".join(f"{dtype} {rates[dtype] / 1e9:.0f} GFLOP/s" for dtype in dtypes)
    print(f"matmul {matmul}; copy {rates['copy'] / 1e9:.0f} GB/s", file=sys.stderr)


def chosen(choice: Choice) -> str:
    """Return the text of a choice for the table: kernel, threads and their partition."""
    return f"{choice.kernel}, {choice.team.name}"


def calibrate() -> None:
    """Print `fastdln.backends.cpu.cost_model.COSTS` as measured on this machine."""
    rates, traffic = {}, []
    for dtype in DTYPES:
        near, far = Steps("300x12", dtype, "two-pass", 1), Steps("1500x20", dtype, "two-pass", 1)
        seconds = step_times({"near": near.run, "far": far.run}, 0.2)
        rates[dtype] = 6 * near.layout.q_padded * near.layout.size / seconds["near"]
        nbytes = 3 * far.layout.size * far.layout.dtype.itemsize
        work = 6 * far.layout.q_padded * far.layout.size / rates[dtype]
        traffic.append((seconds["far"] - work) / nbytes)
    thin = {
        "alone": Steps("64x100", "float32", "two-pass", 1),
        "layers": Steps("64x100", "float32", "two-pass", 2, "layers"),
        "segments": Steps("64x100", "float32", "two-pass", 2, "segments"),
    }
    seconds = step_times({name: steps.run for name, steps in thin.items()}, 0.1)
    layout = thin["alone"].layout
    work = 6 * layout.q_padded * layout.size / rates["float32"]
    layer = max(seconds["alone"] - work, 0) / layout.depth
    halved = seconds["alone"] - work / 2
    barrier = (seconds["layers"] - halved) / (2 * layout.depth + 2)
    handovers = 2 * segment_count(layout.depth, 2)
    bytes_over = handovers * layout.q_padded / 2 * layout.widest * 4
    shared = (seconds["segments"] - halved - 2 * handovers * barrier) / bytes_over
    print("flops_per_second", {name: f"{rate:.3g}" for name, rate in rates.items()})
    print("seconds_per_byte", *(f"{x:.2g}" for x in traffic))
    print(f"seconds_per_barrier {barrier:.2g}")
    print(f"seconds_per_shared_byte {shared:.2g}")
    print(f"seconds_per_layer {layer:.2g}")


if __name__ == "__main__":
    if sys.argv[1:] == ["calibrate"]:
        calibrate()
    else:
        table(DTYPES, sys.argv[1:] or CASES)
