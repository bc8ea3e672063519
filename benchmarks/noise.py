"""Measure the noise of the benchmarks in `benchmarks.gate`, or of others.

``python -m benchmarks.noise [--runs N] [REGEX]`` takes every value N times, each in a new process,
in turns over all benchmarks, and prints by how much the largest exceeds the least, beside what the
class states.
"""

import argparse
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import statistics
import sys
from pathlib import Path

from . import common

PROGRAM = """
import json, sys
from benchmarks import noise
print(json.dumps(noise.value(*json.loads(sys.argv[1]))))
"""


def tracked():
    """Return (module, class, method, index of the parameters) of every ``track_`` benchmark."""
    found = []
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = importlib.import_module(f"benchmarks.{entry.name}")
        for name, group in inspect.getmembers(module, inspect.isclass):
            if group.__module__ == module.__name__:
                methods = [method for method in dir(group) if method.startswith("track_")]
                sizes = range(len(combinations(group)))
                found += [(entry.name, name, *rest) for rest in itertools.product(methods, sizes)]
    return found


def combinations(group):
    """Return the combinations of a class's parameters, as asv makes them."""
    params = getattr(group, "params", [])
    lists = params if params and isinstance(params[0], list | tuple) else [params] if params else []
    return list(itertools.product(*lists))


def value(module, name, method, index):
    """Return one value of a benchmark, taken in this process; None where it is not available."""
    group = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    params = combinations(group)[index]
    instance = group()
    if hasattr(instance, "setup"):
        try:
            instance.setup(*params)
        except NotImplementedError:
            return None
    return getattr(instance, method)(*params)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("regex", nargs="?", default=r"^(gate|memory)\.", help="as asv's --bench")
    parser.add_argument("--runs", type=int, default=10)
    chosen = parser.parse_args()
    which = [entry for entry in tracked() if re.search(chosen.regex, ".".join(entry[:3]))]
    values = {entry: [] for entry in which}
    for _ in range(chosen.runs):
        for entry in which:
            got = json.loads(common.in_new_process(PROGRAM, json.dumps(entry)))
            if got is not None:
                values[entry].append(got)
    print("| benchmark | median | largest over least | stated |\n|---|---|---|---|")
    for entry, taken in values.items():
        group = getattr(sys.modules[f"benchmarks.{entry[0]}"], entry[1])
        params = ", ".join(map(str, combinations(group)[entry[3]]))
        label = f"{'.'.join(entry[:3])}{f'({params})' if params else ''}"
        if not taken:
            print(f"| {label} | n/a | | |")
            continue
        spread = max(taken) / min(taken) - 1
        stated = getattr(group, "noise", None)
        print(
            f"| {label} | {statistics.median(taken):.4g} | {spread:.1%}"
            f" | {'' if stated is None else f'{stated:.0%}'} |"
        )


if __name__ == "__main__":
    main()
