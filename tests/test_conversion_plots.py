"""The plots of conversions show the numbers they are given."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from robustsnn.conversion.layer_errors import CAUSES, ErrorPart, LayerError
from robustsnn.energy import COSTS
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.statistics import rate
from robustsnn.report.conversion_plots import accuracy_over_time_figure, energy_figure, layer_errors_figure
from robustsnn.report.style import SERIES, inline_svg, png


def point(steps: int, probing: int, correct: int, joules: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "time_steps": steps,
        "steps": {"published": steps + probing, "computed": steps + probing},
        "accuracy": rate(correct, 100).as_dict(),
    }
    if joules is not None:
        found["energy"] = {
            "time_steps": steps + probing,
            "joules": {name: joules * (i + 1) for i, name in enumerate(COSTS)},
        }
    return found


def conversion(method: str = "qcfs", probing: int = 0, **more: Any) -> dict[str, Any]:
    over_time = [point(steps, probing, 90 + i, steps * 1e-6) for i, steps in enumerate((8, 2, 4))]
    limits = {"ann": rate(97, 100).as_dict(), "quantised": rate(95, 100).as_dict()}
    return {"model": "net", "method": method, "over_time": over_time} | limits | more


def drawn(ax: Axes) -> dict[str, np.ndarray]:
    """Points of the lines by their labels."""
    containers = {c.get_label(): c.lines[0].get_xydata() for c in ax.containers if hasattr(c, "lines")}
    lines = {str(line.get_label()): line.get_xydata() for line in ax.get_lines()}
    return {name: np.asarray(xy) for name, xy in (lines | containers).items() if not name.startswith("_")}


@pytest.mark.parametrize("narrow", [False, True])
def test_accuracy_over_time(narrow: bool) -> None:
    figure = accuracy_over_time_figure([conversion(), conversion("qcfs + cos", 4)], narrow)
    (ax,) = figure.axes
    lines = drawn(ax)
    assert lines["qcfs"].tolist() == [[2, 91], [4, 92], [8, 90]]
    assert lines["qcfs + cos"].tolist() == [[6, 91], [8, 92], [12, 90]]
    assert set(lines["ANN"][:, 1]) == {97}
    assert set(lines["quantised ANN"][:, 1]) == {95}
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] == pytest.approx(79.6)
    assert png(figure).startswith(b"\x89PNG")
    assert SERIES[0] not in inline_svg(figure, "accuracy", "accuracy")


def test_equal_methods_are_told_apart_and_points_without_steps_are_of_time_steps() -> None:
    second = conversion(model="other", quantised=None)
    for each in second["over_time"]:
        del each["steps"]
    lines = drawn(accuracy_over_time_figure([conversion(), second]).axes[0])
    assert {"net (qcfs)", "other (qcfs)"} <= set(lines)
    assert np.array_equal(lines["net (qcfs)"], lines["other (qcfs)"])


@pytest.mark.parametrize("narrow", [False, True])
def test_energy(narrow: bool) -> None:
    ann = {"joules": {"neuromorphic": 20e-6, "cmos-45nm": 3e-6}}
    figure = energy_figure([conversion(), conversion("qcfs + srp", 4)], ann, narrow)
    assert len(figure.axes) == len(COSTS)
    for i, (ax, name) in enumerate(zip(figure.axes, COSTS)):
        lines = drawn(ax)
        np.testing.assert_allclose(lines["qcfs"], [[2 * (i + 1), 91], [4 * (i + 1), 92], [8 * (i + 1), 90]])
        np.testing.assert_allclose(lines["ANN"], [[ann["joules"][name] * 1e6, 95]])
        assert "µJ" in ax.get_xlabel()
        assert name in ax.get_title(loc="left")
        assert f"{COSTS[name].mac * 1e12:g} pJ" in ax.get_title(loc="left")
    assert png(figure).startswith(b"\x89PNG")


def test_one_energy_belongs_to_the_point_of_its_steps() -> None:
    over_time = [point(steps, 4, 90 + steps) for steps in (2, 4, 8)]
    whole = {"time_steps": 8, "joules": dict.fromkeys(COSTS, 3e-3)}
    figure = energy_figure([conversion(over_time=over_time, energy=whole, ann=None, quantised=None)])
    for ax in figure.axes:
        np.testing.assert_allclose(drawn(ax)["qcfs"], [[3, 94]])
        assert "mJ" in ax.get_xlabel()
        assert "ANN" not in drawn(ax)


@pytest.mark.parametrize("narrow", [False, True])
def test_layer_errors(narrow: bool) -> None:
    layers = [
        LayerError(str(i), 2.0, *(ErrorPart(0.0, 0.0, 0.1 * i + 0.01 * j) for j in range(5))) for i in range(1, 4)
    ]
    figure = layer_errors_figure({"a": layers, "b": layers[:2]}, narrow)
    shown = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in shown] == ["a", "b"]
    lines = drawn(shown[0])
    for cause in CAUSES:
        want = [100 * getattr(layer, cause).rms / 2 for layer in layers]
        np.testing.assert_allclose(lines[cause], list(zip((1, 2, 3), want)))
    np.testing.assert_allclose([bar.get_height() for bar in shown[0].patches], [5, 10, 15])
    assert png(figure).startswith(b"\x89PNG")


def test_nothing_to_draw() -> None:
    for draw in (accuracy_over_time_figure, energy_figure):
        with pytest.raises(RobustSNNError, match="to draw"):
            draw([])
    with pytest.raises(RobustSNNError, match="energies"):
        energy_figure([conversion(over_time=[point(2, 0, 90)])])
    with pytest.raises(RobustSNNError, match="to draw"):
        accuracy_over_time_figure([conversion(over_time=[{"time_steps": 2, "accuracy": None}])])
    with pytest.raises(RobustSNNError, match="layer errors"):
        layer_errors_figure({})


def test_pyplot_is_not_touched() -> None:
    code = "import sys; import robustsnn.report.conversion_plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
