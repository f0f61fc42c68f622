"""Corrections as a part of a conversion: options shared out, plain data, and one file that keeps everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from torch import Tensor

from robustsnn.checkpoint import MODEL, load_checkpoint, read_tensors, save_checkpoint, write_tensors
from robustsnn.conversion import CORRECTIONS, METHODS, convert, correction_spec, to_spec, with_cos, with_srp
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models import ActivationSpec, CorrectedClassifier, CorrectionSpec, COSSpec, ModelSpec, SRPSpec

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def spec_of(kind: str) -> ModelSpec:
    return ModelSpec(
        neuron=ActivationSpec(kind=kind, levels=4, bound=0.5),
        options={"width": 3, "hidden": 9},
        image_shape=(1, 8, 8),
        num_classes=4,
    )


def ann(kind: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return spec_of(kind).build().eval()


def calibration(method: str) -> dict[str, Tensor]:
    return {"calibration": IMAGES} if METHODS[method].calibrated else {}


def kind_for(method: str) -> str:
    return "relu" if METHODS[method].calibrated else "qcfs"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_every_correction(method):
    net = ann(kind_for(method))
    snn = convert(net, method, 5, **calibration(method))
    for correction, twin in (("srp", with_srp(snn, 3)), ("cos", with_cos(snn, 3))):
        model = convert(net, method, 5, **calibration(method), correction=correction, probe_steps=3)
        assert torch.equal(model(IMAGES), twin(IMAGES))
        if method == "qcfs":
            assert not torch.equal(model(IMAGES), snn(IMAGES)), "the correction does something"
        assert isinstance(model, CorrectedClassifier)
        assert model.correction == twin.correction
        assert model.step_count.published == 8


def test_options_find_whom_they_are_for():
    net = ann("relu")
    model = convert(net, "percentile", 4, IMAGES, correction="cos", percentile=90.0, iterations=2, layerwise=False)
    twin = with_cos(convert(net, "percentile", 4, IMAGES, percentile=90.0), 4, 2, layerwise=False)
    assert torch.equal(model(IMAGES), twin(IMAGES))
    model = convert(net, "ltb", 4, IMAGES, correction={"kind": "cos", "iterations": 2}, iterations=5)
    twin = with_cos(convert(net, "ltb", 4, IMAGES, iterations=5), 4, 2)
    assert torch.equal(model(IMAGES), twin(IMAGES))
    model = convert(net, "ltb", 4, IMAGES, correction=COSSpec(iterations=2), iterations=5)
    assert torch.equal(model(IMAGES), twin(IMAGES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correction": "cost"}, "unknown correction 'cost'. Did you mean 'cos'?"),
        ({"correction": {"iterations": 2}}, "unknown correction None"),
        ({"correction": "cos", "probe_step": 2}, "Did you mean 'probe_steps'?"),
        ({"correction": "srp", "iteratons": 2}, "unknown option of conversion method qcfs with correction srp"),
        ({"correction": {"kind": "srp", "iterations": 2}}, "unknown option of correction srp 'iterations'"),
        ({"correction": {"kind": "cos"}, "probe_steps": 2}, "unknown option of conversion method qcfs 'probe_steps'"),
        ({"probe_steps": 2}, "unknown option of conversion method qcfs 'probe_steps'"),
        (
            {"correction": "cos", "probe_steps": -1},
            "correction cos: probe_steps: .* greater than or equal to 0, got -1",
        ),
        ({"correction": "cos", "probe_steps": 2.5}, "correction cos: probe_steps: .* integer, got 2.5"),
        ({"correction": "cos", "iterations": 0}, "correction cos: iterations: .* greater than or equal to 1, got 0"),
        ({"correction": "cos", "layerwise": "yes"}, "correction cos: layerwise"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(RobustSNNError, match=message.replace("?", r"\?")) as caught:
        convert(ann("qcfs"), "qcfs", 4, **options)
    assert "\n" not in str(caught.value)


def test_an_option_of_both_is_refused():
    with pytest.raises(RobustSNNError, match="method ltb and correction cos both have an option iterations"):
        convert(ann("relu"), "ltb", 4, IMAGES, correction="cos", iterations=3)


def test_plain_data():
    adapter: TypeAdapter[Any] = TypeAdapter(CorrectionSpec)
    for spec in (SRPSpec(probe_steps=2), COSSpec(iterations=3, layerwise=False)):
        assert adapter.validate_python(json.loads(spec.model_dump_json())) == spec
        assert correction_spec(spec.model_dump()) == correction_spec(spec) == spec
    assert adapter.validate_python("srp") == SRPSpec()
    with pytest.raises(ValidationError, match="a correction is srp or cos"):
        adapter.validate_python("sro")
    assert str(COSSpec()) == "cos(probe_steps=4, iterations=1, layerwise=True)"
    assert CORRECTIONS["srp"].options == ("probe_steps",)


# --- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["qcfs", "opi", "ltb"])
@pytest.mark.parametrize("correction", [SRPSpec(probe_steps=3), COSSpec(probe_steps=3, iterations=2, layerwise=False)])
def test_keeps_the_correction(method, correction, tmp_path):
    kind, path = kind_for(method), tmp_path / "model.safetensors"
    model = convert(ann(kind), method, 5, **calibration(method), correction=correction)
    save_checkpoint(path, model, to_spec(spec_of(kind), 5, correction=correction), {"mine": 1})
    loaded = load_checkpoint(path)
    assert type(loaded.model) is type(model)
    assert loaded.model.correction == correction == loaded.spec.correction
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert torch.equal(loaded.model.reference(IMAGES), model.reference(IMAGES))
    assert not loaded.model.training


def test_never_forgets_it(tmp_path):
    plain = convert(ann("qcfs"), "qcfs", 4)
    spec, corrected = to_spec(spec_of("qcfs"), 4), to_spec(spec_of("qcfs"), 4, correction=SRPSpec())
    for model, described, told in (
        (with_srp(plain), spec, r"correction srp\(probe_steps=4\), its description the correction none"),
        (with_srp(plain, 3), corrected, r"srp\(probe_steps=3\), its description the correction srp\(probe_steps=4\)"),
        (plain, corrected, r"correction none, its description the correction srp\(probe_steps=4\)"),
        (convert(ann("relu"), "ltb", 4, IMAGES, delayed=True), to_spec(spec_of("relu"), 4), "the readout delayed mean"),
    ):
        with pytest.raises(RobustSNNError, match=told):
            save_checkpoint(tmp_path / "model.safetensors", model, described, {})
    assert not list(tmp_path.iterdir())


def test_files_of_plain_models_are_as_ever(tmp_path):
    """No key that older versions would refuse."""
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, convert(ann("qcfs"), "qcfs", 4), to_spec(spec_of("qcfs"), 4), {})
    with safe_open(path, "pt") as file:
        assert "correction" not in json.loads(file.metadata()["document"])["spec"]
    assert load_checkpoint(path).spec.correction is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correction": {"kind": "cos", "probe_steps": -1}}, "correction.COSSpec.probe_steps"),
        ({"correction": {"kind": "os.system"}}, "a correction is srp or cos"),
        ({"correction": {"kind": "srp", "iterations": 1}}, "iterations"),
        ({"correction": {"kind": "srp"}, "neuron": {"kind": "if"}}, "cannot be built"),
    ],
)
def test_a_file_with_another_correction_is_refused(changes, message, tmp_path):
    path = write(tmp_path / "model.safetensors")
    weights, document = read_tensors(path, MODEL)
    write_tensors(path, MODEL, weights, document | {"spec": document["spec"] | changes})
    with pytest.raises(RobustSNNError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def write(path: Path) -> Path:
    save_checkpoint(path, convert(ann("qcfs"), "qcfs", 4), to_spec(spec_of("qcfs"), 4), {})
    return path


def test_the_name_of_a_correction_is_no_method():
    with pytest.raises(UnknownNameError, match="unknown conversion method 'cos'"):
        convert(ann("qcfs"), "cos", 4)
