"""Sweeps: their results, their order, and their arguments."""

import threading

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run

from fastdln.sweeps.cell_runs import CellRuns
from fastdln.training.train import train
from fastdln.utils import memory, threads


def test_every_cell_is_what_train_computes():
    ds = run(seeds=(0, 5), record_steps=(0, 3, 50), learning_rate=1e-3)
    assert ds.loss.dims == ("init", "width", "depth", "seed", "step")
    for index in np.ndindex(*ds.status.shape):
        cell = ds.isel(dict(zip(ds.status.dims, index, strict=True)))
        with threads.limited(1):
            r = train(
                sweep_cases.problem(),
                width=int(cell.width),
                depth=int(cell.depth),
                init=str(cell.init.values),
                seed=int(cell.seed),
                steps=50,
                learning_rate=1e-3,
            )
        np.testing.assert_array_equal(cell.loss, r.loss[[0, 3, 50]])
        assert cell.initial_loss == r.loss[0]
        assert cell.learning_rate == 1e-3
        assert (cell.status, cell.steps_taken) == (r.status, r.steps_taken)
        assert cell.method == r.method
        assert cell.seconds > 0


def test_the_most_expensive_cells_come_first(monkeypatch):
    order = []
    real = CellRuns.train

    def noted(self, batch, report=None):
        order.extend((cell.width, cell.depth) for cell in batch)
        return real(self, batch, report)

    monkeypatch.setattr(CellRuns, "train", noted)
    run(workers=1, inits=["gaussian"])
    assert order[0] == (8, 6)
    assert order[-1][1] == 1


def test_threads_limits_the_workers_and_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDLN_NUM_THREADS", "3")
    names, real = set(), CellRuns.train

    def noted(self, batch, report=None):
        names.add(threading.current_thread().name)
        return real(self, batch, report)

    monkeypatch.setattr(CellRuns, "train", noted)
    alone = run(threads=1, store=tmp_path / "s")
    assert names == {"fastdln-0"}
    assert sweep_cases.same(run(store=tmp_path / "s"), alone)  # continued, with nothing to do
    assert sweep_cases.same(run(), alone)
    run(threads=1, workers=1)


class FakeClient:
    def submit(self): ...
    def scheduler_info(self): ...

    def ncores(self):
        return {"worker": 2}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 2.0}, TypeError, "steps must be a whole number"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"dtype": "int32"}, TypeError, "dtype must be"),
        ({"method": "fast"}, ValueError, "method must be one of"),
        ({"method": "reduced"}, ValueError, "gaussian"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be"),
        ({"threads": 1, "workers": 2}, ValueError, r"workers must be at most threads \(1\), not 2"),
        ({"store": 7}, TypeError, "store must be the path of a directory"),
        ({"store": "s3://bucket/run"}, ValueError, "local directory"),
        ({"client": "tcp://host"}, TypeError, "client must be a dask.distributed Client"),
        ({"client": object(), "workers": 2}, ValueError, "workers is for this process"),
        ({"client": FakeClient(), "threads": 1}, ValueError, "threads is for this process"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, words, monkeypatch):
    monkeypatch.setattr(CellRuns, "train", None)
    with pytest.raises(kind, match=words):
        run(**change)


def test_networks_that_do_not_fit_in_memory_are_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    message = r"training 2 networks at a time needs [\d,]+ bytes .* 1,000 bytes .* fewer workers"
    with pytest.raises(MemoryError, match=message):
        run(store=tmp_path / "s", workers=2)
    assert not (tmp_path / "s").exists()


def test_networks_beyond_any_memory_are_refused_in_no_time():
    with pytest.raises(MemoryError, match="TiB"):
        run(widths=[10**6], depths=[10**4], inits=["gaussian"])
