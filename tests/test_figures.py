"""The figures' presets, the whole way through at a tiny size."""

import pytest

from fastdln import figures
from fastdln.figures import FIGURE1, FIGURE2, Preset
from fastdln.sweeps import store
from fastdln.sweeps.cell_runs import CellRuns

TINY = Preset((10, 30), (1, 3), 40, (0, 20, 40))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(FIGURE1, "quick", TINY)
    monkeypatch.setitem(FIGURE2, "quick", TINY)
    monkeypatch.setattr("fastdln.sweeps.estimate.PROBE_SECONDS", 0.001)


@pytest.mark.parametrize("name", ["figure1", "figure2"])
def test_a_figure_and_its_data_are_written_and_the_time_is_said_first(name, tiny, tmp_path):
    said = []
    files = getattr(figures, name)("quick", tmp_path / "out", progress=False, say=said.append)
    assert [f.name for f in files] == [f"{name}.png", f"{name}.svg", f"{name}.zarr"]
    assert all(f.exists() for f in files)
    words = {"figure1": "after 40 steps", "figure2": "gradient steps"}
    assert words[name] in files[1].read_text(encoding="utf-8")
    assert (store.read(files[2]).status != "pending").all()
    assert len(said) == 1
    assert said[0].startswith(f"{name}, preset quick: 8 networks, widths 10 to 30, depths 1 to 3")
    assert "estimated time: up to" in said[0]


def test_the_default_directory_is_named_after_the_preset(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figures.figure1("quick", progress=False)
    assert (tmp_path / "figure1-quick" / "figure1.png").exists()


def test_unknown_presets_and_bad_outputs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="preset must be one of 'quick', 'laptop', 'paper'"):
        figures.figure1("huge")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a directory"):
        figures.figure1("quick", tmp_path / "file")
    with pytest.raises(OSError, match="cannot be created"):
        figures.figure1("quick", tmp_path / "file" / "below")


def test_a_figure_drawn_before_says_so_and_is_not_trained_again(tiny, tmp_path, monkeypatch):
    figures.figure1("quick", tmp_path, progress=False)
    monkeypatch.setattr(CellRuns, "train", None)
    said = []
    figures.figure1("quick", tmp_path, progress=False, say=said.append)
    assert said[0].endswith("40 steps; 8 of them are done")


def test_another_preset_in_the_same_directory_is_refused(tiny, tmp_path, monkeypatch):
    figures.figure1("quick", tmp_path, progress=False)
    monkeypatch.setitem(FIGURE1, "quick", Preset((10, 30), (1, 3), 50, (0, 50)))
    with pytest.raises(ValueError, match="steps is 40 there and 50 here"):
        figures.figure1("quick", tmp_path, progress=False)


@pytest.mark.parametrize("presets", [FIGURE1, FIGURE2])
def test_presets_are_grids_that_a_sweep_accepts(presets):
    for preset in presets.values():
        for axis in (preset.widths, preset.depths, preset.record_steps):
            assert list(axis) == sorted(set(axis))
        assert preset.record_steps[-1] == preset.steps


def test_presets_cover_what_they_promise():
    assert (FIGURE1["paper"].widths[0], FIGURE1["paper"].widths[-1]) == (10, 1000)
    assert (FIGURE1["paper"].depths[0], FIGURE1["paper"].depths[-1]) == (1, 700)
    for name in ("laptop", "paper"):
        assert FIGURE1[name].record_steps == (0, 1258, 10_000)
    assert FIGURE1["laptop"].widths[-1] == 500
    assert FIGURE1["laptop"].depths[-1] == 300
