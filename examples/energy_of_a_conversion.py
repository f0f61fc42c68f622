"""Energy and layer errors of a network converted with and without SRP and COS, on digits, in a minute.

python examples/energy_of_a_conversion.py [FOLDER FOR PLOTS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import robustsnn as rs
from robustsnn.conversion import accuracy_over_time, convert, with_cos, with_srp
from robustsnn.conversion.layer_errors import CAUSES, layer_errors
from robustsnn.energy import COSTS, measure_energy
from robustsnn.evaluation.conversion_curve import ann_limits, energy
from robustsnn.evaluation.statistics import rate
from robustsnn.models import ActivationSpec, AnnClassifier, ModelSpec
from robustsnn.report.conversion_plots import accuracy_over_time_figure, energy_figure, layer_errors_figure
from robustsnn.report.style import png

STEPS = (1, 2, 4, 8, 16, 32)
VARIANTS = {"qcfs": lambda snn: snn, "qcfs + srp": with_srp, "qcfs + cos": with_cos}


def trained() -> AnnClassifier:
    """A QCFS network with 4 levels, trained for a moment; the same weights every time."""
    spec = ModelSpec(
        neuron=ActivationSpec(kind="qcfs", levels=4, bound=4.0),
        options={"norm": "bn"},
        image_shape=(1, 8, 8),
        num_classes=10,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ann = spec.build()
    data = rs.datasets.load("digits")
    rs.defenses.train(ann, data.train, rs.defenses.CrossEntropy(), rs.defenses.TrainConfig(epochs=10))
    assert isinstance(ann, AnnClassifier)
    return ann.eval()


def main() -> None:
    """Train it, convert it, and print what it costs."""
    ann = trained()
    images, labels = rs.datasets.load("digits").test.batch(slice(None))
    source = energy(ann, images, 120)
    limits = ann_limits(ann, images, labels, 120)
    print(f"quantised ANN: {limits['quantised']['value']:.1%}, {source['macs']:,.0f} MAC, {microjoules(source)}")
    found, errors = [], {}
    for name, corrected in VARIANTS.items():
        points: list[dict[str, Any]] = []
        for steps in STEPS:
            snn = corrected(convert(ann, "qcfs", steps))
            (at,) = accuracy_over_time(snn, images, labels, [steps], 120)
            used, taken = energy(snn, images, 120), getattr(snn, "step_count", None)
            published = steps if taken is None else taken.published
            points.append(
                {
                    "time_steps": steps,
                    "steps": {"published": published, "computed": used["time_steps"]},
                    "accuracy": rate(at.correct, at.n).as_dict(),
                    "energy": used,
                }
            )
            print(
                f"{name:10} T = {steps:2} ({published:2} steps): {at.accuracy:.1%}, {used['macs']:9,.0f} MAC, "
                f"{used['accumulations']:9,.0f} + {used['graded']:9,.0f} graded operations, {microjoules(used)}"
            )
        found.append({"method": name, **limits, "over_time": points})
        errors[f"{name}, T = 4"] = layer_errors(ann, corrected(convert(ann, "qcfs", 4)), images)
    for name, layers in errors.items():
        print(name)
        for layer in layers:
            parts = ", ".join(f"{cause} {getattr(layer, cause).rms / layer.rms_activation:.1%}" for cause in CAUSES)
            print(f"  {layer.name:8} {layer.total.rms / layer.rms_activation:6.1%} of the activation's RMS: {parts}")
    cached = measure_energy(convert(ann, "qcfs", 8), images, cache_input=True)
    print(f"qcfs, T = 8, first layer computed once: {cached.macs:,.0f} MAC")
    if len(sys.argv) > 1:
        figures = {
            "accuracy-over-time": accuracy_over_time_figure(found),
            "energy": energy_figure(found, source),
            "layer-errors": layer_errors_figure(errors),
        }
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            Path(sys.argv[1], f"{name}.png").write_bytes(png(figure))


def microjoules(used: dict[str, Any]) -> str:
    """Energy per image under every cost model."""
    return ", ".join(f"{used['joules'][name] * 1e6:.3f} µJ ({name})" for name in COSTS)


if __name__ == "__main__":
    main()
