"""The device of a sweep: as named, as in its store, or as the cost models choose."""

import numpy as np
import pytest
import sweep_cases

from fastdln.backends import selection
from fastdln.config import TrainConfig
from fastdln.sweeps import device as devices
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.device import check_kernel, with_device
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.store import Store

GRID = Grid(("gaussian",), (3, 8), (4,), (0, 1, 2), (0, 9))


def runs_on(device, **options):
    return CellRuns.of(sweep_cases.problem(), TrainConfig(steps=9, device=device, **options))


def chosen(runs, store=None, client=None):
    return with_device(runs, runs.plans(GRID.cells()), store, client).config.device


@pytest.fixture
def asked(monkeypatch):
    """The works for which a device was to be chosen; the choice is always a GPU."""
    works = []

    def choose(name, work):
        works.append(work)
        return selection.DeviceChoice("gpu", "for a test")

    monkeypatch.setattr(selection, "choose_device", choose)
    return works


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu:1"])
def test_a_named_device_is_kept(name, asked):
    runs = runs_on(name)
    assert with_device(runs, runs.plans(GRID.cells()), None, None) is runs
    assert asked == []


def test_a_cluster_uses_its_processors(asked):
    assert chosen(runs_on("auto"), client=object()) == "cpu"
    assert asked == []


def test_auto_is_chosen_for_all_networks_together(asked):
    assert chosen(runs_on("auto", dtype="float32")) == "gpu"
    (work,) = asked
    assert dict(work.networks) == {(4, w, w, w, 3): 3 for w in GRID.width}
    assert (work.steps, work.dtype) == (9, np.dtype("float32"))


@pytest.mark.parametrize(
    ("stored", "available", "device", "choices"),
    [("cpu", True, "cpu", 0), ("gpu", True, "gpu", 0), ("gpu", False, "gpu", 1)],
)
def test_a_sweep_that_is_continued_keeps_its_device(
    stored, available, device, choices, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "available", lambda: available)
    Store(tmp_path / "s", GRID, {"device": stored}).close()
    assert chosen(runs_on("auto"), store=tmp_path / "s") == device
    assert len(asked) == choices


def test_kernels_are_checked_for_the_device():
    check_kernel(runs_on("cpu", kernel="zigzag"))
    check_kernel(runs_on("gpu", kernel="zigzag", momentum=0.5))
    with pytest.raises(ValueError, match="plain full-batch"):
        check_kernel(runs_on("cpu", kernel="zigzag", momentum=0.5))
    with pytest.raises(ValueError, match="zigzag"):
        check_kernel(runs_on("gpu", kernel="zigzag", optimizer="adam"))
