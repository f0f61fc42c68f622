"""A trained model as a product: what its file says, what evaluations add to it, and that its weights never change."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

import robustsnn
from robustsnn.checkpoint import load_checkpoint, save_checkpoint, update_record
from robustsnn.cli import app
from robustsnn.conversion import convert, to_spec
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.identity import model_hash
from robustsnn.evaluation.record import with_evaluation
from robustsnn.models import ActivationSpec, COSSpec, ModelSpec, NeuronSpec
from robustsnn.report.card import print_card

SPEC = ModelSpec(
    image_shape=(1, 8, 8),
    num_classes=10,
    time_steps=2,
    options={"width": 4, "hidden": 16},
    neuron=NeuronSpec(kind="lif", tau=3.0),
)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    return str(result.stdout)


def card(path: Path) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_card(path, console)
    return console.export_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small model that has learnt something."""
    file = tmp_path_factory.mktemp("model") / "sr.safetensors"
    options = ["--set", "options={width: 4, hidden: 16}", "--set", "neuron.v_threshold=0.5", "--time-steps", 2]
    succeed("train", "sr-digits", "--objective", "sr(lam=0.001)", *options, "--epochs", 3, "--lr", 0.01, "--out", file)
    return file


@pytest.fixture
def model(trained, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustsnn.cli._report", lambda folder: None)
    Path("sr.safetensors").write_bytes(trained.read_bytes())
    return Path("sr.safetensors")


class TestRecord:
    def test_says_how_the_model_came_to_be(self, trained):
        record = load_checkpoint(trained).record
        assert record["objective_text"].startswith("SR(lam=0.001")
        assert record["recipe"]["training"]["epochs"] == record["training"]["epochs"] == 3
        assert record["robustsnn"] == robustsnn.__version__
        assert record["environment"]["torch"] == torch.__version__
        assert record["data"]["n_train"] == 1437
        assert len(record["data"]["content"]) == 32
        assert 0 < record["validation_accuracy"] <= 1
        assert record["test_accuracy"]["n"] == 360
        assert record["evaluations"] == []

    def test_an_evaluation_is_noted_and_the_weights_are_not_touched(self, model):
        weights, before = load_file(model), model_hash(model)
        attack = ["--attack", "pgd", "--steps", 2, "--eps", "16/255", "--rule", "bptt", "--n-test", 40, "--out", "e"]
        printed = succeed("evaluate", model, *attack, "--record")
        assert "Recorded in sr.safetensors" in printed
        assert model_hash(model) == before
        assert load_file(model).keys() == weights.keys()
        assert all(torch.equal(weight, load_file(model)[name]) for name, weight in weights.items())
        (noted,) = load_checkpoint(model).record["evaluations"]
        results = json.loads(Path("e/results.json").read_text())
        measured = next(a for a in results["models"][0]["attacks"] if a["attack"] == "pgd")
        (pgd,) = (a for a in noted["attacks"] if a["attack"] == "PGD-2")
        assert pgd["accuracy"] == measured["accuracy"]
        assert (pgd["rule"], pgd["eps"], pgd["settings"]["steps"]) == ("BPTT", 16 / 255, 2)
        assert noted["clean"] == results["models"][0]["clean"]
        assert (noted["norm"], noted["n"], noted["robustsnn"]) == ("Linf", 40, robustsnn.__version__)
        assert noted["date"] == results["finished"]

        # The same question again replaces the answer (and goes on with the run that is there), another one is added.
        succeed("evaluate", model, *attack, "--record")
        assert len(load_checkpoint(model).record["evaluations"]) == 1
        succeed("evaluate", model, *attack[:-1], "f", "--record", "--seed", 1)
        assert len(load_checkpoint(model).record["evaluations"]) == 2
        assert load_checkpoint(model).record["objective_text"].startswith("SR(lam=0.001")
        shown = card(model)
        assert shown.count("Measured ") == 2
        assert f"{100 * measured['accuracy']['value']:.1f} [" in shown

    def test_nothing_is_noted_unless_asked_for(self, model):
        before = model.read_bytes()
        succeed("evaluate", model, "--attack", "fgsm", "--eps", "0.1", "--rule", "bptt", "--n-test", 10, "--out", "e")
        assert model.read_bytes() == before

    def test_what_has_no_file_is_refused_before_any_work(self, model):
        spec = SPEC.model_copy(update={"neuron": ActivationSpec(kind="qcfs")})
        save_checkpoint("ann.safetensors", spec.build(), spec, {"dataset": "digits"})
        result = call("evaluate", "ann.safetensors", "--attack", "fgsm", "--record", "--out", "e")
        assert result.exit_code == 2
        assert "--record finds no file to write to" in result.stderr
        assert not Path("e").exists()

    def test_loaded_and_evaluated_from_nothing_but_the_file(self, model):
        found = load_checkpoint(model)
        images, labels = load("digits").test.batch(slice(None))
        with torch.no_grad():
            right = int((found.model(images).argmax(1) == labels).sum())
        assert right == found.record["test_accuracy"]["count"]
        assert right > 100

    def test_different_questions_are_kept_apart(self):
        asked = {"dataset": "digits", "n": 5, "seed": 0, "norm": "Linf", "attacks": []}
        record = with_evaluation({"objective": "ce"}, asked | {"clean": 1})
        record = with_evaluation(record, asked | {"clean": 2})
        record = with_evaluation(record, asked | {"n": 6, "clean": 3})
        assert [entry["clean"] for entry in record["evaluations"]] == [2, 3]
        assert record["objective"] == "ce"


class TestCard:
    def test_tells_what_the_file_is(self, trained):
        shown = card(trained)
        for words in ("cnn (width 4, hidden 16)", "lif (v_threshold 0.5)", "T = 2, direct coding", "SR(lam=0.001"):
            assert words in shown
        for words in ("digits, 1 437 training images", "epochs 3", f"torch {torch.__version__}", "1x8x8 in [0, 1]"):
            assert words in shown.replace("\u202f", " ")
        assert "No robustness is recorded yet: robustsnn evaluate" in shown

    def test_command(self, model):
        assert "SR(lam=0.001" in succeed("show", model)
        result = call("show", "none.safetensors")
        assert result.exit_code == 2
        assert "does not exist" in result.stderr

    @pytest.mark.parametrize("neuron", [NeuronSpec(), ActivationSpec(kind="relu")])
    def test_of_a_file_without_a_record(self, tmp_path, neuron):
        spec = SPEC.model_copy(update={"neuron": neuron, "normalize": ((0.3,), (0.4,))})
        save_checkpoint(tmp_path / "m", spec.build(), spec, {})
        shown = card(tmp_path / "m")
        assert "normalised inside" in shown
        assert ("T = 2" in shown) == spec.spiking

    @pytest.mark.parametrize(
        "record",
        [{"evaluations": [{"clean": {"value": 1}}]}, {"evaluations": 3}, {"data": {"n_train": []}}, {"data": 1}],
    )
    def test_of_a_strange_record_is_a_card_or_one_line(self, tmp_path, record):
        save_checkpoint(tmp_path / "m", SPEC.build(), SPEC, record)
        try:
            assert "cnn" in card(tmp_path / "m")
        except RobustSNNError as error:
            assert "malformed" in str(error)  # noqa: PT017


class TestDiskFull:
    @pytest.fixture
    def full(self, monkeypatch):
        def refuse(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", refuse)

    def test_while_saving_leaves_the_old_file(self, model, full):
        before = model.read_bytes()
        found = load_checkpoint(model)
        with pytest.raises(RobustSNNError, match="No space left"):
            save_checkpoint(model, found.model, found.spec, {"new": True})
        with pytest.raises(RobustSNNError, match="No space left"):
            update_record(model, lambda record: record | {"new": True})
        assert model.read_bytes() == before
        assert [path.name for path in Path().iterdir()] == ["sr.safetensors"]

    def test_while_recording_is_one_line(self, model, monkeypatch):
        succeed("evaluate", model, "--attack", "fgsm", "--eps", "0.1", "--rule", "bptt", "--n-test", 10, "--out", "e")
        before, whole = model.read_bytes(), os.replace

        def replace(source: str, target: str | Path) -> None:
            if str(target).endswith(".safetensors"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole(source, target)

        monkeypatch.setattr(os, "replace", replace)
        arguments = ["--attack", "fgsm", "--eps", "0.1", "--rule", "bptt", "--n-test", 10, "--out", "e", "--record"]
        result = call("evaluate", model, *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "No space left" in result.stderr
        assert model.read_bytes() == before


def test_a_record_that_is_no_json_is_refused_and_the_file_kept(model):
    before = model.read_bytes()
    with pytest.raises(RobustSNNError, match="plain JSON"):
        update_record(model, lambda record: record | {"accuracy": float("nan")})
    assert model.read_bytes() == before


def test_the_hash_is_about_the_model(model):
    before = model_hash(model)
    update_record(model, lambda record: record | {"note": "mine"})
    assert model_hash(model) == before
    found = load_checkpoint(model)
    with torch.no_grad():
        next(found.model.parameters()).view(-1)[0] += 1
    save_checkpoint(model, found.model, found.spec, found.record)
    assert model_hash(model) != before
    changed = found.spec.model_copy(update={"time_steps": 3})
    save_checkpoint("other.safetensors", found.model, changed, found.record)
    assert model_hash("other.safetensors") != model_hash(model)


def test_a_correction_is_on_the_card_with_its_latency(tmp_path):
    ann = ModelSpec(neuron=ActivationSpec(kind="qcfs"), image_shape=(1, 8, 8), num_classes=10, options={"width": 4})
    correction = COSSpec(probe_steps=3, iterations=2)
    snn = convert(ann.build(), "qcfs", 8, correction=correction)
    save_checkpoint(tmp_path / "cos.safetensors", snn, to_spec(ann, 8, correction=correction), {})
    shown = " ".join(card(tmp_path / "cos.safetensors").split())
    assert "cos(probe_steps=3, iterations=2, layerwise=True)" in shown
    count = snn.step_count
    assert (count.published, count.computed) == (14, 14)
    assert (
        f"T = 8: 14 steps as published, {count.pipelined} on a device that runs all layers in step, 14 computed"
        in shown
    )
