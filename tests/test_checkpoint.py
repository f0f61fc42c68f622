"""One-file checkpoints: what comes back, and what is said about files that are not ours, not whole or do not fit."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustsnn.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from robustsnn.errors import RobustSNNError
from robustsnn.models import ActivationSpec, ModelSpec, NeuronSpec, ScaledIFSpec
from robustsnn.neurons import ScaledIF

SHAPE = {"image_shape": (1, 8, 8), "num_classes": 10, "options": {"width": 4, "hidden": 8}}
RECORD = {"objective": "SR(lam=0.002)", "test_accuracy": 0.9722222222222222, "epochs": [1, 2], "note": None}
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SPECS = {
    "snn": ModelSpec(**SHAPE, neuron=NeuronSpec(kind="lif", surrogate="ATan", alpha=2.0), time_steps=3),
    "plif": ModelSpec(**SHAPE, neuron=NeuronSpec(kind="plif", reset="soft"), normalize=((0.3,), (0.4,)), readout="sum"),
    "qcfs": ModelSpec(**SHAPE, neuron=ActivationSpec(kind="qcfs", levels=4)),
    "relu": ModelSpec(**SHAPE, neuron=ActivationSpec(kind="relu"), normalize=((0.3,), (0.4,))),
    "scaled-if": ModelSpec(**SHAPE, neuron=ScaledIFSpec(), time_steps=5),
}


def trained(spec):
    """A model whose weights, statistics and thresholds are not the initial ones."""
    torch.manual_seed(1)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for index, module in enumerate(m for m in model.modules() if isinstance(m, ScaledIF)):
        module.threshold = torch.rand(4, 1, 1) + 0.5 if index == 0 else torch.tensor(0.7)
    model.train()
    model(IMAGES)
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, trained(SPECS["snn"]), SPECS["snn"], RECORD)
    return path


def message(path):
    with pytest.raises(RobustSNNError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rewrite(path, metadata=None, **tensors):
    """The same file with other metadata or tensors (None: left out)."""
    content = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    header = path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]]
    save_file(content, path, {**json.loads(header)["__metadata__"], **(metadata or {})})


@pytest.mark.parametrize("name", SPECS)
def test_a_model_comes_back_as_it_was(name, tmp_path):
    model, state = trained(SPECS[name]), torch.random.get_rng_state()
    path = tmp_path / "model.safetensors"
    torch.random.set_rng_state(state)
    save_checkpoint(path, model, SPECS[name], RECORD)
    checkpoint = load_checkpoint(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert checkpoint.spec == SPECS[name]
    assert checkpoint.record == RECORD
    assert type(checkpoint.model) is type(model)
    assert not any(module.training for module in checkpoint.model.modules())
    before, after = model.state_dict(), checkpoint.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        assert torch.equal(model(IMAGES), checkpoint.model(IMAGES))
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_weights_in_another_memory_layout_come_back(tmp_path):
    model = trained(SPECS["snn"]).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "m", model, SPECS["snn"], {})
    torch.testing.assert_close(load_checkpoint(tmp_path / "m").model(IMAGES), model(IMAGES))


def test_a_file_is_replaced_in_one_step_and_nothing_else_is_left(saved):
    save_checkpoint(saved, trained(SPECS["snn"]), SPECS["snn"], {"second": True})
    assert load_checkpoint(saved).record == {"second": True}
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_and_a_folder(tmp_path):
    assert "does not exist" in message(tmp_path / "none.safetensors")
    assert "is a folder" in message(tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 300, -1])
def test_a_truncated_file(saved, cut):
    saved.write_bytes(saved.read_bytes()[:cut])
    assert "cut short" in message(saved)


def test_a_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    assert "pickle" in message(path)
    torch.save({"weight": torch.zeros(3)}, path)
    assert "pickle" in message(path)


def test_somebody_elses_safetensors(tmp_path):
    path = tmp_path / "theirs.safetensors"
    for metadata in (None, {"format": "pt"}, {"robustsnn": "model", "format": "one"}):
        save_file({"weight": torch.zeros(3)}, path, metadata)
        assert "not written by robustsnn" in message(path)


def test_a_newer_format(saved):
    rewrite(saved, {"format": str(FORMAT + 1)})
    assert "newer" in message(saved)


def test_another_kind_of_file(saved):
    rewrite(saved, {"robustsnn": "training state"})
    assert "is a training state file" in message(saved)


@pytest.mark.parametrize(
    "document", ["{", "[]", "{}", '{"spec": {"architecture": "cnn"}, "record": {}}', "[" * 100_000]
)
def test_a_document_that_says_nothing(saved, document):
    rewrite(saved, {"document": document})
    message(saved)


def respec(path, **changes):
    spec = {**SPECS["snn"].model_dump(mode="json"), **changes}
    rewrite(path, {"document": json.dumps({"spec": spec, "record": {}})})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architecture": "transformer"}, "unknown model 'transformer'"),
        ({"neuron": {"kind": "lif", "tau": 0.5}}, "neuron"),
        ({"options": {"width": 8, "hidden": 8}}, "net.0.weight has shape (4, 1, 3, 3), the model's is (8, 1, 3, 3)"),
        ({"options": {"width": 10**7, "hidden": 10**6}}, "net.0.weight has shape"),
        ({"options": {"width": "wide"}}, "cannot be built"),
        ({"options": {"depth": 3}}, "unknown option"),
        ({"time_steps": 0}, "time_steps"),
    ],
)
def test_weights_that_do_not_fit_their_description(saved, changes, expected):
    respec(saved, **changes)
    assert expected in message(saved)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"net.0.weight": None}, "net.0.weight is missing"),
        ({"net.99.weight": torch.zeros(2)}, "net.99.weight has no place"),
        ({"net.0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.float64)}, "float64"),
        ({"net.0.weight": torch.full((4, 1, 3, 3), torch.nan)}, "NaN"),
    ],
)
def test_tensors_that_do_not_fit(saved, tensors, expected):
    rewrite(saved, **tensors)
    assert expected in message(saved)


def test_thresholds_must_be_positive(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, trained(SPECS["scaled-if"]), SPECS["scaled-if"], {})
    rewrite(path, **{"net.2.threshold": torch.zeros(4, 1, 1)})
    assert "not positive" in message(path)


def test_saving_refuses_what_could_not_be_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(RobustSNNError, match="does not fit"):
        save_checkpoint(path, nn.Linear(2, 2), SPECS["snn"], {})
    for record in ({"path": path}, {"loss": float("nan")}):
        with pytest.raises(RobustSNNError, match="plain JSON"):
            save_checkpoint(path, trained(SPECS["snn"]), SPECS["snn"], record)
    with pytest.raises(RobustSNNError, match="cannot write"):
        save_checkpoint(tmp_path / "none" / "model", trained(SPECS["snn"]), SPECS["snn"], {})
    assert list(tmp_path.iterdir()) == []
