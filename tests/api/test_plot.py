"""Figures: what is drawn, what is marked, what is refused. Pixels are not compared."""

import types

import numpy as np
import pytest
from sweep_cases import run

from fastdln import plot
from fastdln.sweeps.grid import VARIABLES, Grid

GRID = Grid(("gaussian", "orthogonal"), (3, 8), (1, 4, 6), (0, 1, 2), (0, 10, 50))


def dataset():
    """A made-up sweep: relative loss 10⁻¹ at step 10 and 10⁻³ at step 50 everywhere."""
    values = GRID.empty()
    values["initial_loss"][:] = 7.0
    values["loss"][:] = 7.0 * np.array([1, 1e-1, 1e-3])
    values["status"][:] = "completed"
    values["steps_taken"][:] = 50
    return GRID.dataset(values, {})


def marked(ds, index, status):
    """Set cells to a status, and their losses to what a sweep stores for it."""
    ds = ds.copy(deep=True)
    ds["status"].values[index] = status
    ds["loss"].values[index] = {"diverged": np.inf, "pending": VARIABLES["loss"][1]}[status]
    return ds


def images(figure):
    return [ax.collections[0].get_array() for ax in panels(figure)]


def panels(figure):
    return [ax for ax in figure.axes if ax.get_title(loc="left")]


def texts(figure):
    found = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return " | ".join(found)


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
    assert texts(plot.heatmaps(once)) == ""
    figure = plot.heatmaps(marked(once, np.s_[0, 1, 2, 1], "diverged"))
    assert texts(figure) == "diverged: the loss became infinite"
    np.testing.assert_array_equal(images(figure)[0].mask, [[0, 0, 0], [0, 0, 1]])
    crosses = [line for line in panels(figure)[0].get_lines() if line.get_marker() == "x"]
    np.testing.assert_array_equal(crosses[0].get_xydata(), [[2.5, 1.5]])


def test_pending_cells_are_hatched_and_explained():
    figure = plot.heatmaps(marked(dataset(), np.s_[1, 0, 0, :], "pending"))
    assert texts(figure) == "not trained yet"
    hatched = [p for p in panels(figure)[1].patches if p.get_hatch()]
    assert [p.get_xy() for p in hatched] == [(0, 0)]


def test_a_sweep_with_nothing_trained_yet_can_be_drawn(tmp_path):
    empty = GRID.dataset(GRID.empty(), {})
    for figure in (plot.heatmaps(empty), plot.loss_curves(empty)):
        plot.save(figure, tmp_path / "f.png")


def test_the_colour_scale_ends_at_a_power_of_ten_that_is_worth_a_colour():
    def lowest(ds, **options):
        return panels(plot.heatmaps(ds, **options))[0].collections[0].norm.vmin

    assert lowest(dataset()) == -3
    assert lowest(dataset(), lowest=-5) == -5
    assert lowest(dataset(), steps=[10]) == -1
    deep = dataset()
    deep["loss"].values[..., 2] = 1e-200
    assert lowest(deep) == plot.DEEPEST


def test_overflow_at_the_first_step_is_divergence_and_a_perfect_fit_is_not():
    ds = dataset()
    ds["loss"].values[0] = ds["initial_loss"].values[0] = np.inf
    ds["loss"].values[1] = ds["initial_loss"].values[1] = 0
    ratio = plot.relative_loss(ds)
    assert np.isposinf(ratio.sel(init="gaussian")).all()
    assert (ratio.sel(init="orthogonal") == 0).all()


def test_many_values_have_few_tick_labels_at_even_distances():
    positions, labels = plot._ticks(np.arange(100, 2200, 100))
    assert labels == [f"{i:,}" for i in range(100, 2101, 200)]
    np.testing.assert_array_equal(positions, np.arange(0, 21, 2) + 0.5)
    assert len(plot._ticks(np.arange(1000))[1]) == 12


def test_loss_curves_have_a_line_for_every_width():
    figure = plot.loss_curves(dataset())
    assert len(panels(figure)) == 6
    assert texts(figure) == "3 | 8"
    ax = panels(figure)[4]
    assert ax.get_title(loc="left") == "Orthogonal, 4 layers"
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [1, 1e-1, 1e-3])


def test_curves_end_where_runs_converged_or_diverged():
    ds = dataset()
    ds["status"].values[0, 0, 0], ds["steps_taken"].values[0, 0, 0] = "converged", 8
    ds["status"].values[0, 1, 0] = "diverged"
    ds["loss"].values[0, 1, 0, :, 1:] = np.inf
    ds["loss"].values[1, 0, 0, :, 1] = 1e200
    figure = plot.loss_curves(ds)
    assert texts(figure) == "3 | 8 | converged | diverged"
    markers = {line.get_marker(): line for line in panels(figure)[0].get_lines()}
    np.testing.assert_allclose(markers["o"].get_xydata(), [[10, 0.1]])
    np.testing.assert_allclose(markers["x"].get_xydata(), [[0, 1]])
    assert panels(figure)[3].get_ylim()[1] == plot.HIGHEST


def result(loss, status="completed"):
    loss = np.array(loss)
    return types.SimpleNamespace(relative_loss=loss, status=status)


def test_training_results_are_drawn_with_their_names():
    figure = plot.loss_curves({"wide": result([1, 0.1]), "narrow": result([1, np.inf], "diverged")})
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["wide", "narrow"]
    assert plot.loss_curves(result([1.0])).axes[0].get_legend() is None
    assert len(plot.loss_curves([result([1, 0.5])] * 3, scale="log").axes) == 1


def test_a_sweep_reduced_to_one_value_can_be_drawn():
    ds = dataset()
    assert len(panels(plot.heatmaps(ds.isel(init=0, seed=0, step=2)))) == 1
    assert len(panels(plot.loss_curves(ds.sel(depth=4)))) == 2


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figures_of_a_real_sweep_can_be_written(tmp_path, ending):
    ds = run(learning_rate=0.2)
    for figure in (plot.heatmaps(ds), plot.loss_curves(ds)):
        plot.save(figure, tmp_path / f"f.{ending}")
        assert (tmp_path / f"f.{ending}").stat().st_size > 5000


def test_the_look_of_other_peoples_figures_is_left_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot.heatmaps(dataset())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: plot.heatmaps([1]), TypeError, "dataset must be the Dataset of a sweep, not list"),
        (lambda: plot.heatmaps(dataset(), [11]), ValueError, "step 11 was not recorded; .* 0, 10"),
        (lambda: plot.heatmaps(dataset(), []), ValueError, "at least one value"),
        (lambda: plot.heatmaps(dataset(), lowest=1), ValueError, "lowest must be less than 0"),
        (lambda: plot.heatmaps(dataset()[["loss"]]), ValueError, "no variable 'initial_loss'"),
        (lambda: plot.heatmaps(dataset().isel(width=[])), ValueError, "at least one network"),
        (
            lambda: plot.heatmaps(dataset().isel(width=0, drop=True)),
            ValueError,
            "it has no 'width'",
        ),
        (lambda: plot.loss_curves(dataset(), scale="cubic"), ValueError, "scale must be one of"),
        (lambda: plot.loss_curves([]), ValueError, "at least one training result"),
        (lambda: plot.loss_curves("run"), TypeError, "not str"),
        (lambda: plot.loss_curves([3]), TypeError, "must be a training result, not int"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_too_many_depths_for_curves_are_refused():
    grid = Grid(("gaussian",), (3,), tuple(range(1, 10)), (0,), (0, 1))
    with pytest.raises(ValueError, match="9 depths would be too small to read; take at most 8"):
        plot.loss_curves(grid.dataset(grid.empty(), {}))
