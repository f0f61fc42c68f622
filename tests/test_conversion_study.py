"""`robustsnn convert`: anybody's ANN by every method, corrections in the file, tables, plots and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.cli import app
from robustsnn.conversion import METHODS
from robustsnn.datasets import load
from robustsnn.energy import measure_energy
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.conversion_study import ALL, conversions_of, run_conversions, source_of
from robustsnn.evaluation.overrides import conversion_keys
from robustsnn.models import ActivationSpec, COSSpec, ModelSpec
from robustsnn.report.conversion_report import load_study, markdown
from robustsnn.terminal import console

FACTORY = """
import robustsnn as rs
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 20), nn.Linear(20, 10)
    def forward(self, x):
        return self.last(F.relu(self.first(x.flatten(1))))

def build():
    return Net()

def spiking():
    return rs.SpikingClassifier(Net(), 4, layout="image")

def nothing():
    return 3
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_width", 200)
    (tmp_path / "mine.py").write_text(FACTORY)


def convert(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    result = convert(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def write_ann(kind: str) -> Path:
    spec = ModelSpec(
        neuron=ActivationSpec(kind=kind, levels=4, bound=1.0),
        options={"width": 4, "hidden": 16},
        image_shape=(1, 8, 8),
        num_classes=10,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint("ann.safetensors", spec.build(), spec, {"dataset": "digits"})
    return Path("ann.safetensors")


def test_anybodys_network_by_every_method(tmp_path):
    place = f"{tmp_path / 'mine.py'}:build"
    result = convert(place, "--method", "all", "--n-test", 20, "--n-calibration", 30, "--time-steps", 4)
    assert result.exit_code == 0, result.stderr or result.exception
    assert "No file of the SNN" in result.stdout
    study, folder = load_study("out/conversion"), Path("out/conversion")
    fitting = [name for name, method in METHODS.items() if method.calibrated]
    assert [entry["method"] for entry in study["conversions"]] == fitting
    source = source_of(place, "cpu")
    images, labels = load("digits").test.batch(slice(20))
    with torch.no_grad():
        right = int((source.ann(images).argmax(1) == labels).sum())
    assert all(entry["ann"]["count"] == right for entry in study["conversions"])
    assert study["ann_energy"]["macs"] == 64 * 20 + 20 * 10
    assert (folder / "conversion.md").read_text() == markdown(study)
    names = ("accuracy", "energy", "layer-errors")
    assert {path.name for path in (folder / "plots").iterdir()} == {f"{n}.{k}" for n in names for k in ("png", "svg")}
    assert not list(Path().glob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine.py:build", "--out", "x.safetensors"], ["no file of robustsnn can describe", "--report"]),
        (["mine.py:build", "--method", "qcfs"], ["ANN of relu activations; qcfs converts qcfs"]),
        (["mine.py:spiking"], ["is spiking already"]),
        (["mine.py:nothing"], ["returned int", "torch.nn.Module"]),
        (["mine.py:bild"], ["Did you mean 'build'?"]),
        (["mine.py:build", "--method", "all", "--option", "percentile=9"], ["options belong to one method"]),
        (["mine.py:build", "--method", "percentile", "--option", "percentile=0"], ["percentile must be above 0"]),
    ],
)
def test_mistakes_about_it(arguments, words):
    line = refusal(*arguments)
    assert all(word in line for word in words), line
    assert not Path("out").exists()


def test_a_correction_is_in_the_file_and_in_the_tables():
    write_ann("qcfs")
    options = ["--correction", "cos", "--probe-steps", 3, "--option", "cos.iterations=2", "--time-steps", 5]
    result = convert("ann.safetensors", *options, "--n-test", 30)
    assert result.exit_code == 0, result.stderr or result.exception
    loaded = load_checkpoint("converted.safetensors")
    assert loaded.spec.correction == COSSpec(probe_steps=3, iterations=2)
    assert loaded.record["conversion"]["correction"]["probe_steps"] == 3
    (entry,) = load_study("converted.conversion")["conversions"]
    assert (entry["method"], entry["steps"]["counted"], entry["steps"]["published"]) == ("qcfs + cos", 5, 11)
    images, labels = load("digits").test.batch(slice(30))
    with torch.no_grad():
        right = int((loaded.model(images).argmax(1) == labels).sum())
    (point,) = [point for point in entry["over_time"] if point["time_steps"] == 5]
    assert point["accuracy"]["count"] == right
    assert entry["energy"]["synaptic_operations"] == measure_energy(loaded.model, images).synaptic_operations
    assert [len(entry["layers"])] == [3]
    assert "qcfs + cos" in result.stdout
    shown = CliRunner().invoke(app, ["report", "converted.conversion"]).stdout
    assert shown.splitlines()[1] in result.stdout


def test_one_file_holds_one_model():
    source = source_of(str(write_ann("relu")), "cpu")
    with pytest.raises(RobustSNNError, match="--out holds one converted model"):
        run_conversions(source, conversions_of(source, ALL), 4, Path("x.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (([], None, None), {"options": {}}),
        ((["percentile=99", "per_channel=true"], None, None), {"options": {"percentile": 99, "per_channel": True}}),
        (([], "srp", 2), {"options": {}, "correction": {"kind": "srp", "probe_steps": 2}}),
        ((["cos.layerwise=false"], "cos", None), {"options": {}, "correction": {"kind": "cos", "layerwise": False}}),
    ],
)
def test_options_of_the_command_line(arguments, keys):
    assert conversion_keys(*arguments) == keys


def test_a_document_that_is_none(tmp_path):
    for text in (
        "{",
        "[]",
        "{}",
        json.dumps({"conversions": [], "ann_energy": {}, "source": "x", "schema_version": 9}),
    ):
        (tmp_path / "conversion.json").write_text(text)
        with pytest.raises(RobustSNNError, match=r"conversion\.json"):
            load_study(tmp_path)
