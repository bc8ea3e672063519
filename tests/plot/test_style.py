"""Files of figures, and the style, which leaves other figures alone."""

import matplotlib as mpl
import pytest
from plot_cases import GRID, dataset
from sweep_cases import run

from fastdln import plot


def test_a_sweep_with_nothing_trained_yet_can_be_drawn(tmp_path):
    empty = GRID.dataset(GRID.empty(), {})
    for figure in (plot.heatmaps(empty), plot.loss_curves(empty)):
        plot.save(figure, tmp_path / "f.png")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figures_of_a_real_sweep_can_be_written(tmp_path, ending):
    ds = run(learning_rate=0.2)
    for figure in (plot.heatmaps(ds), plot.loss_curves(ds)):
        plot.save(figure, tmp_path / f"f.{ending}")
        assert (tmp_path / f"f.{ending}").stat().st_size > 5000


def test_the_style_of_other_figures_is_left_alone():
    before = dict(mpl.rcParams)
    plot.heatmaps(dataset())
    assert dict(mpl.rcParams) == before
