"""Every benchmark runs once at its smallest size, which is the first of each list of parameters."""

import importlib
import inspect
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in (ROOT / "benchmarks").glob("[a-z]*.py"))
KINDS = ("time_", "track_", "peakmem_", "mem_")


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def _benchmarks(module):
    """Yield every class of a module with its methods that are benchmarks."""
    found = importlib.import_module(f"benchmarks.{module}")
    for name, group in inspect.getmembers(found, inspect.isclass):
        methods = [m for m in dir(group) if m.startswith(KINDS)]
        if group.__module__ == found.__name__ and not name.startswith("_") and methods:
            yield group, methods


def _lists_of_params(group):
    params = getattr(group, "params", [])
    return params if params and isinstance(params[0], list | tuple) else [params]


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_run_at_their_smallest_size(module, tmp_path, monkeypatch):
    for group, methods in _benchmarks(module):
        smallest = [values[0] for values in _lists_of_params(group) if len(values)]
        for method in methods:
            directory = tmp_path / f"{group.__name__}.{method}"
            directory.mkdir()
            monkeypatch.chdir(directory)
            _run_once(group(), method, smallest)


def _run_once(group, method, smallest):
    """Run one benchmark as asv does: one that lacks a peer or a GPU must say so in `setup`."""
    if hasattr(group, "setup"):
        try:
            group.setup(*smallest)
        except NotImplementedError:
            return
    value = getattr(group, method)(*smallest)
    if method.startswith("track_"):
        assert value >= 0


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_describe_themselves(module):
    for group, methods in _benchmarks(module):
        name = group.__qualname__
        assert group.__doc__, f"{name} does not say what its values are"
        lists = [values for values in _lists_of_params(group) if len(values)]
        assert len(getattr(group, "param_names", ())) == len(lists), f"{name}.param_names"
        for method in methods:
            if method.startswith("track_"):
                unit = getattr(getattr(group, method), "unit", getattr(group, "unit", None))
                assert unit, f"{name}.{method} has no unit"
            elif method.startswith("time_"):
                # Every further round is another process, and another installation of the package.
                assert getattr(group, "rounds", 2) == 1, f"{name}.rounds is not 1"


@pytest.mark.parametrize("module", ["gate", "memory"])
def test_benchmarks_that_guard_a_change_state_their_noise(module):
    for group, methods in _benchmarks(module):
        assert 0 <= group.noise <= 0.1, group.__qualname__
        assert all(method.startswith("track_") for method in methods)


def test_without_peers_their_benchmarks_are_skipped_in_setup(monkeypatch):
    # None in sys.modules makes an import raise ImportError, as without the package.
    for name in ("torch", "jax", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    skipped = 0
    for module in MODULES:
        for group, _ in _benchmarks(module):
            lists = [values for values in _lists_of_params(group) if len(values)]
            for index, values in enumerate(lists):
                for peer in {"torch", "autograd", "jax"}.intersection(map(str, values)):
                    params = [other[0] for other in lists]
                    params[index] = peer
                    with pytest.raises(NotImplementedError, match="is not installed"):
                        group().setup(*params)
                    skipped += 1
    assert skipped
