"""Type checkers and editors see the types of everything public, lazily imported as it is."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastdln

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests" / "user_program.py"


def mypy(*arguments: str | Path) -> str:
    """Return what mypy prints, run in the checkout with the project's configuration."""
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed: it comes with fastdln[test]")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


@pytest.mark.slow
def test_mistakes_in_a_users_program_are_found():
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    planted = {number for number, line in enumerate(lines, 1) if "# mistake:" in line}
    assert len(planted) == 3
    errors = re.findall(r"^(.*?):(\d+): error: (.*)$", mypy(PROGRAM), flags=re.MULTILINE)
    found = {int(line) for path, line, _ in errors if Path(path).name == PROGRAM.name}
    assert found == planted, errors


@pytest.mark.slow
def test_few_expressions_of_the_api_are_any(tmp_path):
    mypy("--any-exprs-report", tmp_path)
    report = (tmp_path / "any-exprs.txt").read_text()
    rows = re.findall(r"^ *(fastdln\S*) +(\d+) +(\d+) ", report, flags=re.MULTILINE)
    api = [row for row in rows if not row[0].startswith("fastdln.kernels")]
    assert len(api) > 40
    anys, expressions = (sum(int(row[i]) for row in api) for i in (1, 2))
    assert anys < 0.05 * expressions, f"{anys} of {expressions}: {report}"


@pytest.mark.slow
def test_nothing_public_is_any(tmp_path):
    program = tmp_path / "program.py"
    lines = [f"reveal_type(fastdln.{name})" for name in fastdln.__all__]
    program.write_text("\n".join(["import fastdln", *lines]))
    types = re.findall(r"note: Revealed type is (.*)$", mypy(program), flags=re.MULTILINE)
    revealed = dict(zip(fastdln.__all__, types, strict=True))
    assert [name for name, text in revealed.items() if text.strip('"') == "Any"] == []


def test_types_come_from_where_names_do():
    """The two lists in fastdln/__init__.py agree."""
    tree = ast.parse(Path(fastdln.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: f"fastdln.{home}" for name, home in fastdln._HOMES.items()}
    assert homes == lazy | dict.fromkeys(fastdln._MODULES, "fastdln")
