"""The suite of conversions: figures from the runs behind it, shared weights, transferred examples, resuming, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tiny_benchmark import write_npz
from typer.testing import CliRunner

from robustsnn.attacks import PGD
from robustsnn.checkpoint import load_checkpoint
from robustsnn.cli import app
from robustsnn.conversion import METHODS, convert
from robustsnn.datasets import load
from robustsnn.energy import measure_energy
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation import conversion_suite, preparation
from robustsnn.evaluation.conversion_suite import run_conversion_suite
from robustsnn.evaluation.conversion_suite_config import ConversionSuite, conversion_suite_of
from robustsnn.evaluation.crossed import pooled_rate
from robustsnn.evaluation.overrides import suite_with
from robustsnn.evaluation.parsing import merged
from robustsnn.evaluation.suite import check_suite, read_suite, runs_of
from robustsnn.evaluation.suite_presets import build_suite
from robustsnn.report.conversions import (
    conversion_markdown,
    load_conversion_suite,
    print_conversion_suite,
    write_conversion_suite,
)
from robustsnn.terminal import console

EPS = 16 / 255
RELU, QCFS = {"kind": "relu"}, {"kind": "qcfs", "levels": 4, "bound": 2.0}


def converted(name: str, source: str, neuron: dict[str, Any], **conversion: Any) -> dict[str, Any]:
    return {"name": name, "source": source, "model": {"neuron": neuron, "conversion": conversion}}


def content(root: Path | str, **changes: Any) -> dict[str, Any]:
    """Five networks and two seeds on thirty images of bright squares."""
    return {
        "seeds": [0, 1],
        "model": {
            "options": {"width": 4, "hidden": 16},
            "time_steps": 2,
            "training": {"epochs": 3, "batch_size": 32, "lr": 0.02},
        },
        "conversions": [
            {"name": "ann", "title": "ANN", "model": {"neuron": RELU, "as_ann": True}},
            {"name": "qat", "model": {"neuron": QCFS, "as_ann": True}},
            converted("opi", "ann", RELU, method="opi", n_calibration=50),
            converted("cos", "qat", QCFS, method="qcfs", correction={"kind": "cos", "probe_steps": 3}),
            {"name": "direct", "model": {"neuron": {"kind": "lif", "v_threshold": 0.5}}},
        ],
        "benchmark": {
            "data": {"name": "npz", "root": str(root)},
            "noises": [{"name": "uniform"}, {"name": "sign"}],
            "attacks": [{"name": "fgsm", "title": "FGSM"}, {"name": "pgd", "title": "PGD", "params": {"steps": 2}}],
            "rules": [{"name": "bptt"}],
            "eps": ["16/255"],
            "gradients": {"n_images": 0},
            "checks": {"n_images": 0},
        },
        "transfer": {"name": "pgd", "title": "PGD-3", "params": {"steps": 3}},
        "time_steps": [1, 4],
        "n_energy": 8,
    } | changes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "mine.npz")


@pytest.fixture(scope="module")
def config(data) -> ConversionSuite:
    return conversion_suite_of(content(data))


@pytest.fixture(scope="module")
def done(config, tmp_path_factory) -> Path:
    """A finished suite."""
    out = tmp_path_factory.mktemp("suite")
    run_conversion_suite(config, out)
    return out


def weights(done: Path, row: str, seed: int) -> Path:
    return done / "runs" / row / f"seed-{seed}" / "models" / f"{row}.safetensors"


def standing(done: Path, row: str, attack: str) -> np.ndarray:
    """Verdicts ``[seed, image]`` read from the runs themselves."""
    found = []
    for seed in (0, 1):
        table = pq.read_table(done / "runs" / row / f"seed-{seed}" / "samples.parquet").to_pylist()
        by_image = {entry["image"]: entry["correct"] for entry in table if entry["attack"] == attack}
        found.append([by_image[image] for image in sorted(by_image)])
    return np.array(found)


def transferred(done: Path, data: Path, row: str, source: str) -> np.ndarray:
    """Which images ``[seed, image]`` withstand examples that are made on the trained ANN here, once more."""
    images, labels = load("npz", str(data)).test.batch(slice(None))
    calibration = load("npz", str(data)).train.batch(slice(50))[0]
    found = []
    for seed in (0, 1):
        ann = load_checkpoint(weights(done, source, seed)).model
        changed = PGD(ann, eps=EPS, steps=3)(images, labels)
        model = load_checkpoint(weights(done, row, seed)).model
        if row == "opi":
            model = convert(model, "opi", 2, calibration)
        if row == "cos":
            model = convert(model, "qcfs", 2, correction="cos", probe_steps=3)
        with torch.no_grad():
            found.append((model(changed).argmax(1) == labels).tolist())
    return np.array(found)


class TestResults:
    def test_are_those_of_the_runs(self, done, data):
        suite = load_conversion_suite(done)
        assert suite["complete"]
        rows = {row["name"]: row for row in suite["conversions"]}
        assert list(rows) == ["ann", "qat", "opi", "cos", "direct"]
        assert [row["kind"] for row in rows.values()] == ["ann", "ann", "converted", "converted", "snn"]
        for name, source in (("ann", None), ("qat", "ann"), ("opi", "ann"), ("cos", "qat"), ("direct", "ann")):
            row, (here,) = rows[name], rows[name]["at"]
            assert row["seeds"] == [0, 1]
            assert row["transferred_from"] == source
            assert row["clean"] == pooled_rate(standing(done, name, "clean")).as_dict()
            fgsm, pgd = standing(done, name, "FGSM"), standing(done, name, "PGD")
            assert here["attacks"]["PGD"] == pooled_rate(pgd).as_dict()
            worst = fgsm & pgd
            if source is not None:
                shown = transferred(done, data, name, source)
                assert here["transfer"] == pooled_rate(shown).as_dict()
                worst = worst & shown
            assert here["worst"] == pooled_rate(worst).as_dict()
        assert rows["ann"]["at"][0]["transfer"] is None
        assert rows["ann"]["clean"]["value"] > 0.8, "something is learnt"

    def test_rows_convert_the_weights_of_their_source(self, done):
        for row, source in (("opi", "ann"), ("cos", "qat")):
            for seed in (0, 1):
                assert weights(done, row, seed).read_bytes() == weights(done, source, seed).read_bytes()
        assert weights(done, "ann", 0).read_bytes() != weights(done, "ann", 1).read_bytes()

    def test_latency_and_energy(self, done, data):
        rows = {row["name"]: row for row in load_conversion_suite(done)["conversions"]}
        assert rows["cos"]["steps"] == {"counted": 2, "published": 5, "pipelined": 11, "computed": 6}
        assert rows["direct"]["steps"]["published"] == 2
        images = load("npz", str(data)).test.batch(slice(8))[0]
        anns = [load_checkpoint(weights(done, "ann", seed)).model for seed in (0, 1)]
        energies = [measure_energy(ann, images) for ann in anns]
        macs = [found.macs for found in energies]
        assert rows["ann"]["energy"]["macs"]["mean"] == pytest.approx(np.mean(macs))
        assert rows["ann"]["energy"]["joules"]["cmos-45nm"]["mean"] == pytest.approx(4.6e-12 * np.mean(macs))
        assert [point["time_steps"] for point in rows["opi"]["over_time"]] == [1, 2, 4]
        assert rows["opi"]["over_time"][1]["accuracy"]["value"] == pytest.approx(rows["opi"]["clean"]["value"])
        assert rows["ann"]["over_time"] == []


class TestGoingOn:
    def test_a_finished_suite_does_nothing_again(self, config, done, monkeypatch):
        before = load_conversion_suite(done)
        for name in ("build_attack", "energy"):
            monkeypatch.setattr(conversion_suite, name, lambda *args, **kwargs: pytest.fail("measured again"))
        monkeypatch.setattr(preparation, "train", lambda *args: pytest.fail("trained again"))
        assert timeless(run_conversion_suite(config, done)) == timeless(before)

    def test_what_is_missing_is_measured_alone(self, config, done, monkeypatch):
        before = load_conversion_suite(done)
        (done / "runs" / "opi" / "seed-1" / "work" / "conversion.json").unlink()
        monkeypatch.setattr(preparation, "train", lambda *args: pytest.fail("trained again"))
        after = run_conversion_suite(config, done)
        assert [row["at"] for row in after["conversions"]] == [row["at"] for row in before["conversions"]]
        assert after["complete"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"reference": "opi"}, ["the reference 'opi' must be an ANN"]),
            ({"reference": "none"}, ["'none' is none of the conversions"]),
            ({"conversions": []}, ["at least one conversion"]),
            (
                {"conversions": [converted("a", "b", RELU, method="opi")], "reference": "a"},
                ["'b', which is no ANN above"],
            ),
            ({"transfer": {"name": "pgd", "param": {}}}, ["Did you mean 'params'?"]),
            ({"time_steps": []}, ["time_steps"]),
            ({"seedz": [1]}, ["Did you mean 'seeds'?"]),
            ({"benchmark": {"models": []}}, ["models cannot be given here; they come from `conversions`"]),
        ],
    )
    def test_in_the_file(self, changes, words):
        with pytest.raises(RobustSNNError) as caught:
            conversion_suite_of(content("nowhere.npz", **changes))
        assert all(word in str(caught.value) for word in words), caught.value

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            (converted("x", "ann", RELU, method="qcfs"), ["conversion x", "qcfs converts qcfs"]),
            (converted("x", "ann", RELU, method="optimal"), ["conversion x", "unknown conversion method 'optimal'"]),
            ({"name": "x", "model": {"neuron": RELU}}, ["conversion x", "is an ANN; add `conversion:`"]),
            ({"name": "x", "model": {"neuron": {"kind": "if"}, "as_ann": True}}, ["conversion x", "is spiking"]),
        ],
    )
    def test_are_told_before_anything_is_trained(self, data, tmp_path, monkeypatch, row, words):
        monkeypatch.setattr(preparation, "train", lambda *args: pytest.fail("training began"))
        rows = [content(data)["conversions"][0], row]
        with pytest.raises(RobustSNNError) as caught:
            run_conversion_suite(conversion_suite_of(content(data, conversions=rows)), tmp_path / "out")
        assert all(word in str(caught.value) for word in words), caught.value
        assert not (tmp_path / "out").exists()

    def test_a_sweep_that_it_does_not_have(self):
        with pytest.raises(RobustSNNError, match="--lam is of SR's sweep"):
            suite_with("conversions", data={}, lams=[0.1])


class TestPresets:
    @pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "npz"])
    def test_hold_every_method_and_correction(self, name):
        suite = build_suite("conversions", name)
        conversions = {run.variant.name: run.config.models[0].conversion for run in runs_of(suite)}
        assert {found.method for found in conversions.values() if found} == set(METHODS)
        corrections = {str(found.correction.kind) for found in conversions.values() if found and found.correction}
        assert corrections == {"srp", "cos"}
        assert {"ann", "qat", "direct"} < set(conversions)
        assert len(suite.seeds) == 3
        assert "ensemble-standard" in {attack["name"] for attack in suite.benchmark["attacks"]}

    def test_options_change_them(self):
        changed = suite_with("conversions", data={"n_test": 50}, seeds=2, rows=["qcfs+cos"], eps=["8/255"], epochs=2)
        assert [variant.name for variant in changed.variants] == ["ann", "qat", "qcfs+cos"]
        run = next(runs_of(changed))
        assert (changed.seeds, run.config.eps, run.config.data.n_test) == ((0, 1), (8 / 255,), 50)

    def test_every_row_can_be_made(self):
        check_suite(build_suite("conversions"), load("digits"))


class TestReport:
    def test_tables_hold_the_numbers(self, done):
        suite = load_conversion_suite(done)
        text, shown = conversion_markdown(suite), printed(suite)
        page = write_conversion_suite(done).read_text()
        assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
        names = ("conversions-16-255", "over-time", "energy")
        assert {path.name for path in (done / "plots").iterdir()} == {f"{n}.{k}" for n in names for k in ("png", "svg")}
        for row in suite["conversions"]:
            here = row["at"][0]
            for rate in (row["clean"], here["noise"], here["transfer"], here["worst"], *here["attacks"].values()):
                if rate is None:
                    continue
                value = f"{100 * rate['value']:.1f}"
                line = next(line for line in text.splitlines() if line.startswith(f"| {row['title']} |"))
                assert f"{value} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" in line
                assert value in shown
                assert f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]" in page
        assert " 2 | 5 |" in next(line for line in text.splitlines() if line.startswith("| cos |"))

    def test_of_a_file_that_is_none(self, tmp_path):
        for text in ("{", "{}", "[]", '{"suite": "defenses", "schema_version": 1}'):
            (tmp_path / "conversions.json").write_text(text)
            with pytest.raises(RobustSNNError, match=r"conversions\.json"):
                load_conversion_suite(tmp_path)


def test_from_the_command_line(data, done, tmp_path, monkeypatch):
    """Printed, edited, given back; a finished suite is only shown again."""
    monkeypatch.setattr(console, "_width", 200)
    shown = CliRunner().invoke(app, ["benchmark", "--suite", "conversions", "--show-config"]).stdout
    (tmp_path / "same.yaml").write_text(shown)
    assert read_suite(tmp_path / "same.yaml", ConversionSuite) == build_suite("conversions")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(merged(content(data), {})))
    options = ["--suite", "conversions", "--config", str(tmp_path / "mine.yaml"), "--out", str(done)]
    result = CliRunner().invoke(app, ["benchmark", *options])
    assert result.exit_code == 0, result.stderr or result.exception
    assert "Conversions, accuracy (%) at ε = 16/255" in result.stdout
    assert "train ann" not in result.stdout
    again = CliRunner().invoke(app, ["report", str(done)])
    assert again.stdout.split("Conversions")[1] in result.stdout


def printed(suite: dict[str, Any]) -> str:
    with console.capture() as captured:
        print_conversion_suite(suite, console)
    return " ".join(captured.get().split())


def timeless(suite: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({key: value for key, value in suite.items() if key != "written"}))
