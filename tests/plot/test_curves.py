"""Loss curves: lines, marks, labels and refused data. Pixels are not compared."""

import types

import numpy as np
import pytest
from plot_cases import dataset, legend_text, panels

from fastdln import plot
from fastdln.plot import curves
from fastdln.sweeps.grid import Grid


def test_loss_curves_have_a_line_for_every_width():
    figure = plot.loss_curves(dataset())
    assert len(panels(figure)) == 6
    assert legend_text(figure) == "3 | 8"
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
    assert legend_text(figure) == "3 | 8 | converged | diverged"
    markers = {line.get_marker(): line for line in panels(figure)[0].get_lines()}
    np.testing.assert_allclose(markers["o"].get_xydata(), [[10, 0.1]])
    np.testing.assert_allclose(markers["x"].get_xydata(), [[0, 1]])
    assert panels(figure)[3].get_ylim()[1] == curves.HIGHEST


def result(loss, status="completed"):
    loss = np.array(loss)
    return types.SimpleNamespace(relative_loss=loss, status=status)


def test_training_results_are_drawn_with_their_names():
    figure = plot.loss_curves({"wide": result([1, 0.1]), "narrow": result([1, np.inf], "diverged")})
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["wide", "narrow"]
    assert plot.loss_curves(result([1.0])).axes[0].get_legend() is None
    assert len(plot.loss_curves([result([1, 0.5])] * 3, scale="log").axes) == 1


def test_too_many_depths_for_curves_are_refused():
    grid = Grid(("gaussian",), (3,), tuple(range(1, 10)), (0,), (0, 1))
    with pytest.raises(ValueError, match="9 depths would be too small to read; take at most 8"):
        plot.loss_curves(grid.dataset(grid.empty(), {}))


def test_a_sweep_reduced_to_one_depth_can_be_drawn():
    assert len(panels(plot.loss_curves(dataset().sel(depth=4)))) == 2


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: plot.loss_curves(dataset(), scale="cubic"), ValueError, "scale must be one of"),
        (lambda: plot.loss_curves([]), ValueError, "at least one training result"),
        (lambda: plot.loss_curves("run"), TypeError, "not str"),
        (lambda: plot.loss_curves([3]), TypeError, "must be a training result, not int"),
    ],
)
def test_unfit_data_are_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
