"""Executors: every cell's values once, an error raised, and an end that comes soon."""

import threading
from contextlib import closing

import pytest
from sweep_cases import run, same

from fastdln.sweeps import store
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.executors import Cluster, Threads
from fastdln.sweeps.grid import Grid
from fastdln.utils import threads

CELLS = tuple(Grid(("gaussian",), (1, 2, 3), (1,), (0, 1, 2), (0,)).cells())
BATCHES = [CELLS[:4], CELLS[4:5], CELLS[5:]]


def train(batch, report):
    """Return a value for each cell, and report one step of it."""
    for cell in batch:
        if report is not None:
            report(cell, 1)
        yield cell, {"seed": cell.seed, "threads": threads.available()}


def ended(executor, train=train, batches=BATCHES):
    return [found for found in executor.results(train, batches) if found is not None]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_cell_is_trained_once_on_a_thread_of_its_own(count):
    executor = Threads(count)
    found = ended(executor)
    assert sorted(map(str, CELLS)) == sorted(str(cell) for cell, _ in found)
    assert all(values == {"seed": cell.seed, "threads": 1} for cell, values in found)
    assert executor.running == {}


def test_no_more_batches_than_threads_are_trained_at_a_time():
    lock, current, most = threading.Lock(), set(), []

    def counting(batch, report):
        with lock:
            current.add(threading.get_ident())
            most.append(len(current))
        yield from train(batch, report)
        with lock:
            current.discard(threading.get_ident())

    ended(Threads(2), counting, [(cell,) for cell in CELLS])
    assert max(most) <= 2
    assert len(most) == len(CELLS)


def test_an_executor_without_cells_ends_at_once():
    assert ended(Threads(3), batches=[]) == []


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_an_error_of_a_cell_is_raised_here_after_the_cells_before_it(error):
    def failing(batch, report):
        for cell, values in train(batch, report):
            if cell == CELLS[2]:
                raise error("in a cell")
            yield cell, values

    seen = []
    with pytest.raises(error, match="in a cell"):
        seen.extend(ended_cell for ended_cell in Threads(1).results(failing, BATCHES))
    assert [cell for cell, _ in filter(None, seen)] == list(CELLS[:2])


def test_cells_in_training_are_listed_and_stop_when_the_results_are_closed():
    stopped = threading.Event()

    def endless(batch, report):
        try:
            while True:
                report(batch[0], 7)
        except KeyboardInterrupt:
            stopped.set()
            raise
        yield

    executor = Threads(1)
    with closing(executor.results(endless, [(CELLS[0],)])) as results:
        assert next(results) is None
        assert executor.running == {CELLS[0]: 7}
    assert stopped.wait(60)


def test_the_number_of_workers_does_not_change_the_results():
    assert same(run(workers=1), run(workers=3))


def test_an_error_in_a_cell_is_raised(monkeypatch):
    def failing(self, batch, report=None):
        raise MemoryError("not enough memory")

    monkeypatch.setattr(CellRuns, "train", failing)
    with pytest.raises(MemoryError, match="not enough memory"):
        run()


@pytest.fixture
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_a_cluster_gives_the_same_results(client, tmp_path):
    ds = run(client=client, store=tmp_path / "s")
    assert same(ds, run())
    assert same(ds, store.read(tmp_path / "s"))


def test_a_cluster_trains_every_cell_once_and_raises_an_error(client):
    executor = Cluster(client)
    assert (executor.count, executor.most, executor.running) == (2, 16, {})
    assert [count for count, _ in executor.memory()] == [2]
    found = ended(executor)
    assert sorted(map(str, CELLS)) == sorted(str(cell) for cell, _ in found)
    assert all(values["threads"] == 1 for _, values in found)

    def failing(batch, report):
        raise MemoryError("on a worker")

    with pytest.raises(MemoryError, match="on a worker"):
        ended(executor, failing)


def test_a_client_is_one_of_dask_and_has_workers():
    with pytest.raises(TypeError, match=r"must be a dask\.distributed Client, not object"):
        Cluster(object())

    class Idle:
        submit = scheduler_info = None

        def ncores(self):
            return {}

    idle = Idle()
    idle.submit = idle.scheduler_info = idle.ncores
    with pytest.raises(ValueError, match="client has no workers"):
        Cluster(idle)
