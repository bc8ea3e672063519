"""Limits on the size of files and functions, on formatting by hand, and where tests lie."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdln

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_FORMAT_SKIPS = 10
FOLDERS = ("fastdln", "kernels", "benchmarks", "tests")
# Folders of modules, and the folder of their tests: that of `a/b.py` there is `a/test_b.py`.
MIRRORED = {"fastdln": "tests", "kernels": "tests/kernels"}
# Modules without a test file of their own, and the reason.
UNTESTED_MODULES = {
    "kernels/cpu/groups.py": "declarations only; tests of every kernel use them",
}
# Test files without a module, and the reason.
OTHER_TESTS = {
    "tests/backends/gpu/test_public_api.py": "the public functions with device='gpu'",
    "tests/benchmarks/test_gpu.py": "of benchmarks/gpu.py, which is outside the packages",
    "tests/kernels/cpu/test_signatures.py": "a rule for all CPU kernels",
    "tests/sweeps/test_interruption.py": "sweeps in processes that are killed",
    "tests/test_arguments.py": "wrong arguments of all public functions",
    "tests/test_benchmarks.py": "every benchmark runs",
    "tests/test_imports.py": "the order of imports",
    "tests/test_readme.py": "the README's examples",
    "tests/test_reproducibility.py": "results in separate processes",
    "tests/test_source.py": "this file",
    "tests/test_typing.py": "types of the public names",
}
# Split, so that these lines do not count.
SKIPS = ("# fmt: " + "skip", "# fmt: " + "off")


def source_files(*suffixes: str) -> list[Path]:
    """Return the files under version control, and those that are about to be."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        run = subprocess.run(listed, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    paths = [ROOT / name for name in run.stdout.split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count the lines of a function without decorators, docstring, comments and blank lines."""
    numbers = set(range(function.lineno, (function.end_lineno or 0) + 1))
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        numbers -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    texts = (lines[number - 1].strip() for number in numbers)
    return sum(1 for text in texts if text and not text.startswith("#"))


def test_files_are_short():
    counts = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files(".py", ".cu", ".cuh")
    }
    long = {name: count for name, count in counts.items() if count > MOST_LINES_OF_A_FILE}
    assert not long, long


def test_functions_are_short():
    long = {}
    for path in source_files(".py"):
        name = path.relative_to(ROOT)
        if name.parts[0] in FOLDERS:
            text = path.read_text(encoding="utf-8")
            for function in functions(ast.parse(text)):
                count = code_lines(function, text.splitlines())
                if count > MOST_LINES_OF_A_FUNCTION:
                    long[f"{name.as_posix()}:{function.lineno} {function.name}"] = count
    assert not long, long


def test_formatting_is_left_to_ruff():
    counts = {}
    for path in source_files(".py"):
        text = path.read_text(encoding="utf-8")
        if count := sum(text.count(skip) for skip in SKIPS):
            counts[path.relative_to(ROOT).as_posix()] = count
    assert sum(counts.values()) <= MOST_FORMAT_SKIPS, counts


def test_every_module_has_its_test_and_every_test_its_module():
    listed = [path.relative_to(ROOT) for path in source_files(".py")]
    expected = {
        (Path(tests, *path.parts[1:-1]) / f"test_{path.name}").as_posix(): path.as_posix()
        for package, tests in MIRRORED.items()
        for path in listed
        if path.parts[0] == package and not path.name.startswith("__")
    }
    present = {
        path.as_posix()
        for path in listed
        if path.parts[0] == "tests" and path.name.startswith("test_")
    }
    untested = {module for test, module in expected.items() if test not in present}
    # Both ways: an exception that is none any more is removed.
    assert untested == set(UNTESTED_MODULES)
    assert present - set(expected) == set(OTHER_TESTS)


def test_every_package_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {"fastdln": ROOT / "fastdln", "fastdln.kernels": ROOT / "kernels"}
    present = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == present


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [fastdln.__version__]
