"""The README's examples run, and its first shell block is the newcomer's two commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_python_examples_run(tmp_path):
    examples = blocks("python")
    assert len(examples) >= 3
    script = tmp_path / "readme.py"
    script.write_text("\n".join(examples))
    run = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"MPLBACKEND": "agg"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_two_commands_stand_alone():
    first, second = blocks("(?:sh|bash|shell)")[0].strip().splitlines()
    assert "fastdln figure1 --preset quick" in first
    assert second.endswith("pytest")


def test_pictures_exist():
    root = Path(__file__).resolve().parent.parent
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (root / target).is_file(), target
