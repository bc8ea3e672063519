"""Heatmaps: cells, marks, labels and refused data. Pixels are not compared."""

import numpy as np
import pytest
from plot_cases import dataset, legend_text, marked, panels

from fastdln import plot
from fastdln.plot import heatmap


def images(figure):
    return [ax.collections[0].get_array() for ax in panels(figure)]


def test_a_heatmap_for_every_init_and_step():
    figure = plot.heatmaps(dataset(), [10, 50])
    titles = [ax.get_title(loc="left") for ax in panels(figure)]
    assert titles == [
        "Gaussian, after 10 steps",
        "Orthogonal, after 10 steps",
        "Gaussian, after 50 steps",
        "Orthogonal, after 50 steps",
    ]
    np.testing.assert_allclose(np.unique(images(figure)[0]), [-1])
    np.testing.assert_allclose(np.unique(images(figure)[3]), [-3])
    assert images(figure)[0].shape == (2, 3)  # widths upwards, depths to the right


def test_axes_and_colour_bar_say_what_they_are():
    figure = plot.heatmaps(dataset())
    labels = {ax.get_xlabel() for ax in figure.axes} | {ax.get_ylabel() for ax in figure.axes}
    assert "depth (number of layers)" in labels
    assert "width (of the hidden layers)" in labels
    assert "log₁₀ (loss / loss before training)" in labels
    ax = panels(figure)[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "4", "6"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["3", "8"]
    assert "median of 3 seeds" in figure.get_suptitle()


def test_one_diverged_seed_of_three_does_not_mark_a_cell_and_two_do():
    once = marked(dataset(), np.s_[0, 1, 2, 0], "diverged")
    assert legend_text(plot.heatmaps(once)) == ""
    figure = plot.heatmaps(marked(once, np.s_[0, 1, 2, 1], "diverged"))
    assert legend_text(figure) == "diverged: the loss became infinite"
    np.testing.assert_array_equal(images(figure)[0].mask, [[0, 0, 0], [0, 0, 1]])
    crosses = [line for line in panels(figure)[0].get_lines() if line.get_marker() == "x"]
    np.testing.assert_array_equal(crosses[0].get_xydata(), [[2.5, 1.5]])


def test_pending_cells_are_hatched_and_explained():
    figure = plot.heatmaps(marked(dataset(), np.s_[1, 0, 0, :], "pending"))
    assert legend_text(figure) == "not trained yet"
    hatched = [p for p in panels(figure)[1].patches if p.get_hatch()]
    assert [p.get_xy() for p in hatched] == [(0, 0)]


def test_the_colour_scale_ends_at_a_power_of_ten_that_is_worth_a_colour():
    def lowest(ds, **options):
        return panels(plot.heatmaps(ds, **options))[0].collections[0].norm.vmin

    assert lowest(dataset()) == -3
    assert lowest(dataset(), lowest=-5) == -5
    assert lowest(dataset(), steps=[10]) == -1
    deep = dataset()
    deep["loss"].values[..., 2] = 1e-200
    assert lowest(deep) == heatmap.DEEPEST


def test_many_values_have_few_tick_labels_at_even_distances():
    positions, labels = heatmap._ticks(np.arange(100, 2200, 100))
    assert labels == [f"{i:,}" for i in range(100, 2101, 200)]
    np.testing.assert_array_equal(positions, np.arange(0, 21, 2) + 0.5)
    assert len(heatmap._ticks(np.arange(1000))[1]) == 12


def test_a_sweep_reduced_to_one_value_can_be_drawn():
    assert len(panels(plot.heatmaps(dataset().isel(init=0, seed=0, step=2)))) == 1


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: plot.heatmaps([1]), TypeError, "dataset must be the Dataset of a sweep, not list"),
        (lambda: plot.heatmaps(dataset(), [11]), ValueError, "step 11 was not recorded; .* 0, 10"),
        (lambda: plot.heatmaps(dataset(), []), ValueError, "at least one value"),
        (lambda: plot.heatmaps(dataset(), 10), TypeError, "steps must be a list of recorded"),
        (lambda: plot.heatmaps(dataset(), lowest=1), ValueError, "lowest must be less than 0"),
        (lambda: plot.heatmaps(dataset()[["loss"]]), ValueError, "no variable 'initial_loss'"),
        (lambda: plot.heatmaps(dataset().isel(width=[])), ValueError, "at least one network"),
        (
            lambda: plot.heatmaps(dataset().isel(width=0, drop=True)),
            ValueError,
            "it has no 'width'",
        ),
    ],
)
def test_unfit_data_are_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
