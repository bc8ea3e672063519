"""Measured times survive the process, and nothing on disk can stop a run."""

import json
import os
import subprocess
import sys
import threading

import pytest

from fastdln.backends.cpu import kept_choices
from fastdln.backends.cpu.kept_choices import FILE_NAME, Case, KeptChoices

CASE = Case((16, 100, 100, 10), "float32", "two-pass", "gd", 2)
TIMES = {"1": 2e-3, "2:layers": 1.25e-3}


class Clock:
    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Open the file of this test as another process would."""
    options = {"machine": "A", "version": "1", "interval": 0.0, "clock": clock}
    return lambda **other: KeptChoices(tmp_path / "cache", **(options | other))


def test_times_survive_the_process(opened, tmp_path):
    opened().save(CASE, TIMES)
    assert opened().load(CASE) == TIMES
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "other",
    [
        {"widths": (16, 100, 100, 100, 10)},
        {"dtype": "float64"},
        {"kernel": "zigzag"},
        {"optimizer": "adam"},
        {"most": 3},
    ],
)
def test_other_cases_are_unknown(opened, other):
    opened().save(CASE, TIMES)
    assert opened().load(CASE._replace(**other)) == {}


def test_long_lists_of_widths_are_told_apart():
    cases = [CASE._replace(widths=(*range(1, 500), last, 7)) for last in (3, 4)]
    assert cases[0].text != cases[1].text
    assert all(len(case.text) < 100 for case in cases)
    assert Case((16, *[26] * 698, 10), "float32", "zigzag", "gd", 2).text.startswith(
        "16-26x698-10 "
    )
    assert Case((1, 1), "a", "b", "c", 1).text != Case((1, 2), "a", "b", "c", 1).text


def test_candidates_of_a_case_are_added_and_the_later_time_remains(opened):
    store = opened()
    store.save(CASE, {"1": 2e-3})
    store.save(CASE, {"1": 3e-3, "2:rows": 1e-3})
    assert store.load(CASE) == opened().load(CASE) == {"1": 3e-3, "2:rows": 1e-3}


def test_another_machine_has_times_of_its_own(opened):
    opened().save(CASE, TIMES)
    assert opened(machine="B").load(CASE) == {}
    opened(machine="B").save(CASE, {"1": 1.0})
    assert opened().load(CASE) == TIMES
    assert opened(machine="B").load(CASE) == {"1": 1.0}


def test_old_times_and_those_of_the_future_are_unknown(opened, clock):
    opened().save(CASE, TIMES)
    clock.now += 100
    assert opened().load(CASE, most_age=100) == TIMES
    assert opened().load(CASE, most_age=99) == {}
    clock.now -= 1000
    assert opened().load(CASE) == {}


DAMAGED = {
    "empty": b"",
    "cut": b'{"version": "1", "entr',
    "binary": b"\xff\x00\xfe",
    "nested": b"[" * 100_000,
    "list": b"[1, 2]",
    "number": b"3",
    "no version": b'{"entries": {}}',
    "no entries": b'{"version": "1"}',
    "entries a list": b'{"version": "1", "entries": [1]}',
    "entry a number": b'{"version": "1", "entries": {"KEY": 1}}',
    "no pair": b'{"version": "1", "entries": {"KEY": {"1": 2}}}',
    "text": b'{"version": "1", "entries": {"KEY": {"1": ["x", 1e9]}}}',
    "nan": b'{"version": "1", "entries": {"KEY": {"1": [NaN, 1e9]}}}',
    "infinite": b'{"version": "1", "entries": {"KEY": {"1": [Infinity, 1e9]}}}',
    "huge": b'{"version": "1", "entries": {"KEY": {"1": [1' + b"0" * 400 + b", 1e9]}}}",
    "negative": b'{"version": "1", "entries": {"KEY": {"1": [-1, 1e9]}}}',
    "another version": b'{"version": "0", "entries": {"KEY": {"1": [1, 1e9]}}}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_damaged_or_of_another_version_is_ignored_and_rewritten(
    opened, tmp_path, name
):
    path = tmp_path / "cache" / FILE_NAME
    path.parent.mkdir()
    path.write_bytes(DAMAGED[name].replace(b"KEY", f"A: {CASE.text}".encode()))
    assert opened().load(CASE) == {}
    opened().save(CASE, TIMES)
    assert opened().load(CASE) == TIMES
    assert json.loads(path.read_text())["version"] == "1"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_not_kept(opened, seconds):
    store = opened()
    store.save(CASE, {"1": seconds, "2:rows": 1.0})
    assert store.load(CASE) == opened().load(CASE) == {"2:rows": 1.0}


@pytest.mark.parametrize("kind", ["none", "a file", "a folder in the file's place"])
def test_where_nothing_can_be_written_times_are_kept_for_this_process(tmp_path, kind):
    folder = tmp_path / "cache"
    if kind == "a file":
        folder.write_text("")
    elif kind != "none":
        (folder / FILE_NAME).mkdir(parents=True)
    store = KeptChoices(None if kind == "none" else folder, "A", interval=0)
    store.save(CASE, {"1": 2.0})
    assert store.load(CASE) == {"1": 2.0}
    store.save(CASE, {"2:rows": 1.0})
    assert store.load(CASE) == {"1": 2.0, "2:rows": 1.0}
    left = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    assert left == ([FILE_NAME] if "place" in kind else [])


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may write everywhere"
)
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    store = KeptChoices(tmp_path, "A", interval=0)
    store.save(CASE, TIMES)
    assert store.load(CASE) == TIMES


def test_the_latest_entries_remain(opened, clock):
    store = opened(most_entries=3)
    cases = [CASE._replace(most=n) for n in range(1, 6)]
    for case in cases:
        clock.now += 1
        store.save(case, TIMES)
    for found in (store, opened()):
        assert [bool(found.load(case)) for case in cases] == [False, False, True, True, True]


def test_what_others_wrote_meanwhile_remains(opened):
    first, second = opened(), opened()
    assert first.load(CASE) == second.load(CASE) == {}
    other = CASE._replace(most=4)
    first.save(CASE, TIMES)
    second.save(other, {"4:layers": 1.0})
    assert opened().load(CASE) == second.load(CASE) == TIMES
    assert opened().load(other) == {"4:layers": 1.0}


def test_concurrent_writers_leave_a_whole_file(opened, tmp_path):
    def write(rank):
        store = opened()
        for n in range(20):
            store.save(CASE._replace(most=100 * rank + n), TIMES)
            json.loads((tmp_path / "cache" / FILE_NAME).read_text())

    writers = [threading.Thread(target=write, args=(rank,)) for rank in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    # Everything of the writer that wrote last is there: it keeps what it has measured.
    found = opened()
    counts = [
        sum(bool(found.load(CASE._replace(most=100 * rank + n))) for n in range(20))
        for rank in range(4)
    ]
    assert max(counts) == 20
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_writes_are_spaced_and_the_rest_is_written_at_the_end(opened, clock):
    store, other = opened(interval=1.0), CASE._replace(most=5)
    store.save(CASE, TIMES)
    clock.now += 0.5
    store.save(other, TIMES)
    assert store.load(other) == TIMES
    assert opened().load(other) == {}
    store.flush()
    assert opened().load(other) == TIMES
    clock.now += 2
    store.save(CASE, {"1": 5.0})
    assert opened().load(CASE)["1"] == 5.0


def test_the_file_is_read_once(opened, tmp_path):
    opened().save(CASE, TIMES)
    store = opened()
    store.load(CASE)
    (tmp_path / "cache" / FILE_NAME).unlink()
    assert store.load(CASE) == TIMES


SCRIPT = """
from fastdln.backends.cpu import kept_choices as k
case = k.Case((3, 2), "float32", "two-pass", "gd", 2)
print(k.load(case), k.cache_folder())
k.save(case, {"1": 0.5})
k.save(case, {"2:rows": 0.25})
"""


def run(**variables):
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )


def test_the_file_lies_beside_the_compiled_kernels(tmp_path):
    variables = {"NUMBA_CACHE_DIR": str(tmp_path), "FASTDLN_KEEP_CHOICES": "1"}
    first, second = run(**variables), run(**variables)
    assert first.stdout.startswith("{} ")
    assert second.stdout.startswith("{'1': 0.5, '2:rows': 0.25} "), second
    assert str(tmp_path) in second.stdout
    assert len(list(tmp_path.rglob(FILE_NAME))) == 1
    third = run(**variables | {"FASTDLN_KEEP_CHOICES": "0"})
    assert third.stdout.startswith("{} "), third


def test_a_malformed_variable_is_an_error():
    assert (
        "FASTDLN_KEEP_CHOICES is 'no'; it must be 0 or 1" in run(FASTDLN_KEEP_CHOICES="no").stderr
    )


def test_tests_keep_nothing():
    assert kept_choices.kept() is None


def test_the_machine_is_named():
    assert kept_choices.machine().endswith(" lanes")
