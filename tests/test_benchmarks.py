"""Every benchmark runs once at its smallest size, which is the first of each list of parameters."""

import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in (ROOT / "benchmarks").glob("[a-z]*.py"))
KINDS = ("time_", "track_", "peakmem_", "mem_")


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_run_at_their_smallest_size(module):
    found = importlib.import_module(f"benchmarks.{module}")
    for name, group in inspect.getmembers(found, inspect.isclass):
        methods = [m for m in dir(group) if m.startswith(KINDS)]
        if group.__module__ != found.__name__ or name.startswith("_") or not methods:
            continue
        params = getattr(group, "params", [])
        lists = params if params and isinstance(params[0], list | tuple) else [params]
        smallest = [values[0] for values in lists if len(values)]
        for method in methods:
            _run_once(group(), method, smallest)


def _run_once(group, method, smallest):
    """Run one benchmark as asv does; one that needs an absent peer says so and is left out."""
    try:
        if hasattr(group, "setup"):
            group.setup(*smallest)
        value = getattr(group, method)(*smallest)
    except NotImplementedError:
        return
    if method.startswith("track_"):
        assert value >= 0
