"""A configuration that cannot be run is refused in one readable line, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_benchmark import PLAIN, QCFS, content, tiny

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation import (
    BenchmarkConfig,
    Progress,
    benchmark,
    main_job,
    parse_config,
    preparation,
    read_config,
    run_benchmark,
)
from robustsnn.evaluation.config import parse_eps
from robustsnn.evaluation.store import RunFolder

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model is trained or attacked."""

    def fail(*args: Any, **kwargs: Any) -> None:
        pytest.fail("work began")

    monkeypatch.setattr(preparation, "train", fail)
    monkeypatch.setattr(benchmark, "measure", fail)


def refusal(settings: dict[str, Any], out: Path) -> str:
    """The one line with which plain data are refused."""
    with pytest.raises(RobustSNNError) as caught:
        run_benchmark(parse_config(settings, "mine.yaml"), out)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "NeuronSpec" not in message
    assert not out.exists(), "a run that is refused must not leave a folder"
    return message


def model(**changes: Any) -> dict[str, Any]:
    return content(PLAIN | changes)


def conversion(**changes: Any) -> dict[str, Any]:
    return content(QCFS | changes)


@pytest.mark.usefixtures("no_work")
class TestMisspeltKeys:
    @pytest.mark.parametrize(
        ("settings", "place", "key", "nearest"),
        [
            (content(atacks=[]), "the top level", "atacks", "attacks"),
            (content(bach_size=1), "the top level", "bach_size", "batch_size"),
            ({"modles": [PLAIN]}, "the top level", "modles", "models"),
            (content(data={"nam": "digits"}), "data", "nam", "name"),
            (model(timesteps=8), "models.0", "timesteps", "time_steps"),
            (content(PLAIN, QCFS | {"arcitecture": "cnn"}), "models.1", "arcitecture", "architecture"),
            (model(training={"epoch": 3}), "models.0.training", "epoch", "epochs"),
            (model(neuron={"tua": 2.0}), "models.0.neuron", "tua", "tau"),
            (model(neuron={"kind": "lif", "v_treshold": 2.0}), "models.0.neuron", "v_treshold", "v_threshold"),
            (model(neuron={"kind": "qcfs", "level": 2}), "models.0.neuron", "level", "levels"),
            (conversion(conversion={"methods": "qcfs"}), "models.0.conversion", "methods", "method"),
            (
                conversion(conversion={"correction": {"kind": "cos", "iteration": 2}}),
                "models.0.conversion.correction",
                "iteration",
                "iterations",
            ),
            (content(attacks=[{"name": "pgd", "param": {}}]), "attacks.0", "param", "params"),
            (content(noises=[{"name": "sign"}, {"nme": "sign"}]), "noises.1", "nme", "name"),
            (content(rules=[{"name": "bptt", "titel": "x"}]), "rules.0", "titel", "title"),
            (content(gradients={"n_image": 3}), "gradients", "n_image", "n_images"),
        ],
    )
    def test_are_named_with_their_place_and_the_nearest(self, tmp_path, settings, place, key, nearest):
        message = refusal(settings, tmp_path / "out")
        assert message.startswith(f"mine.yaml: at {place}: unknown key {key!r}. Did you mean {nearest!r}?")

    def test_of_objectives_architectures_attacks_and_rules(self, tmp_path):
        out = tmp_path / "out"
        assert "Did you mean 'width'?" in refusal(model(options={"with": 4}), out)
        assert "lamb" in refusal(model(objective="sr", objective_options={"lamb": 1.0}), out)
        assert "stepz" in refusal(content(attacks=[{"name": "pgd", "params": {"stepz": 1}}]), out)
        assert "surogate" in refusal(content(rules=[{"name": "bptr", "params": {"surogate": "atan"}}]), out)


@pytest.mark.usefixtures("no_work")
class TestUnknownNames:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (content(attacks=[{"name": "pdg"}]), ["unknown attack 'pdg'", "'pgd'"]),
            (content(attacks=[{"name": "pdg"}], rules=[]), ["rule"]),
            (content(noises=[{"name": "unifrom"}]), ["unknown attack 'unifrom'", "'uniform'"]),
            (content(rules=[{"name": "bpt"}]), ["unknown gradient rule 'bpt'", "'bptt'"]),
            (content(rules=[{"name": "bptx"}], attacks=[]), ["unknown gradient rule 'bptx'"]),
            (
                content(rules=[{"name": "bptt", "params": {"surrogate": "Atann"}}], attacks=[]),
                ["unknown surrogate 'Atann'", "'ATan'"],
            ),
            (model(architecture="cmn"), ["unknown model 'cmn'", "'cnn'"]),
            (content(data={"name": "digit"}), ["unknown data set 'digit'", "'digits'"]),
            (model(objective="srr"), ["unknown objective 'srr'", "'sr'"]),
            (model(neuron={"surrogate": "sigmod"}), ["unknown surrogate 'sigmod'", "'Sigmoid'"]),
            (model(neuron={"kind": "izhikevich"}), ["models.0.neuron", "if, lif, plif", "or relu or qcfs"]),
            (model(neuron="lif"), ["models.0.neuron", "if, lif, plif"]),
            (model(encoder="ttfs"), ["models.0.encoder", "'direct', 'poisson'"]),
            (model(objective="sr", objective_options={"norm": "l3"}), ["unknown norm of SR 'l3'"]),
            (conversion(conversion={"method": "qfcs"}), ["models.0.conversion.method", "Did you mean 'qcfs'?"]),
            (conversion(conversion={"correction": "cso"}), ["models.0.conversion.correction", "srp or cos"]),
            (content(norm="L3"), ["norm", "'Linf', 'L2', 'L1' or 'L0'"]),
            (content(device="cupid"), ["'cupid'", "--device cpu"]),
        ],
    )
    def test_are_refused(self, tmp_path, settings, words):
        message = refusal(settings, tmp_path / "out")
        assert all(word in message for word in words), message


@pytest.mark.usefixtures("no_work")
class TestValues:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (content(eps=[-0.1]), ["eps.0", "at least 0, got -0.1"]),
            (content(eps=[0.1, NAN]), ["eps.1", "finite", "nan"]),
            (content(eps=[INF]), ["eps.0", "finite"]),
            (content(eps=["1/0"]), ["eps.0", "8/255", "'1/0'"]),
            (content(eps=["far"]), ["eps.0", "8/255", "'far'"]),
            (content(eps=[]), ["at eps", "at least one"]),
            (content(eps=0.1), ["at eps"]),
            (content(gradients={"eps": [NAN]}), ["gradients.eps.0", "finite"]),
            (content(gradients={"eps": [-1]}), ["gradients.eps.0", "at least 0"]),
            (content(gradients={"draws": 0}), ["gradients.draws"]),
            (content(batch_size=0), ["batch_size"]),
            (content(verify_draws=0), ["verify_draws"]),
            (content(data={"n_test": 0}), ["data.n_test"]),
            (content(models=[]), ["at models", "at least one"]),
            ({}, ["at models", "required"]),
            (content(models={"name": "x"}), ["at models"]),
            (content(PLAIN, PLAIN), ["models", "plain is listed twice"]),
            (content(attacks=[{"name": "pgd"}, {"name": "PGD"}]), ["attacks", "pgd is listed twice"]),
            (content(rules=[{"name": "bptt"}, {"name": "bptr", "title": "bptt"}]), ["rules", "bptt is listed twice"]),
            (content(attacks=[{"name": "pgd", "title": "clean"}]), ["attacks", "'clean'"]),
            (content(attacks=[{"name": "sign"}]), ["sign is random noise", "`noises`"]),
            (content(noises=[{"name": "fgsm"}]), ["fgsm is an attack", "`attacks`"]),
            (content(rules=[]), ["attacks need a gradient rule", "`rules:`"]),
            (content(attacks=[{"name": "pgd", "params": {"eps": 0.1}}]), ["attacks.0.params", "eps"]),
            (content(attacks=[{"name": "pgd", "params": {"norm": "L2"}}]), ["attacks.0.params", "norm"]),
            (content(noises=[{"name": "sign", "params": {"seed": 1}}]), ["noises.0.params", "seed"]),
            (content(rules=[{"name": "bptt", "params": {"name": 1}}]), ["rules.0.params", "name"]),
            (content(attacks=[{"name": "pgd", "params": {"steps": 0}}]), ["steps must be a whole number"]),
            (content(attacks=[{"name": "pgd", "params": {"steps": "ten"}}]), ["steps must be a whole number"]),
            (model(time_steps=0), ["models.0.time_steps", "greater than or equal to 1"]),
            (model(name="../plain"), ["models.0.name"]),
            (model(name=""), ["models.0.name"]),
            (model(training={"lr": -1}), ["models.0.training.lr"]),
            (model(training={"lr": NAN}), ["models.0.training.lr"]),
            (model(training={"epochs": 2, "warmup_epochs": 2}), ["models.0.training", "warmup_epochs"]),
            (model(objective="sr", objective_options={"lam": -1}), ["lam", "at least 0"]),
            (model(objective="ce", objective_options={"lam": 1}), ["objective ce"]),
            (model(options={"width": "wide"}), ["width", "'wide'"]),
            (model(options={"width": -4}), ["width", "-4"]),
            (model(normalize=[[0.5], [0.0]]), ["std above 0"]),
            (model(normalize=[[0.5, 0.5, 0.5], [0.2, 0.2, 0.2]]), ["plain", "3 channels", "1"]),
            (model(neuron={"tau": 0.5, "kind": "lif"}), ["models.0.neuron.tau"]),
            (conversion(conversion=None), ["qcfs is an ANN; add `conversion:`"]),
            (model(conversion={}), ["plain is spiking already; remove `conversion:`"]),
            (conversion(conversion={"method": "opi"}), ["qcfs activations", "opi converts relu"]),
            (conversion(neuron={"kind": "relu"}), ["relu activations", "qcfs converts qcfs"]),
            (
                conversion(neuron={"kind": "relu"}, conversion={"method": "percentile", "options": {"percentil": 9}}),
                ["models.0.conversion", "unknown option 'percentil'. Did you mean 'percentile'?"],
            ),
            (
                conversion(
                    neuron={"kind": "relu"}, conversion={"method": "percentile", "options": {"percentile": "x"}}
                ),
                ["models.0.conversion", "percentile", "number"],
            ),
            (
                conversion(
                    neuron={"kind": "relu"}, conversion={"method": "percentile", "options": {"percentile": 101}}
                ),
                ["model qcfs", "percentile must be above 0 and at most 100"],
            ),
            (
                conversion(neuron={"kind": "relu"}, conversion={"method": "ltb", "options": {"iterations": 0}}),
                ["model qcfs", "iterations must be at least 1"],
            ),
            (conversion(conversion={"options": {"v_init": 0.1}}), ["v_init is no option here"]),
            (conversion(conversion={"correction": {"kind": "srp", "probe_steps": -1}}), ["correction.probe_steps"]),
            (conversion(conversion={"v_init": NAN}), ["models.0.conversion.v_init"]),
            (conversion(conversion={"time_steps": []}), ["models.0.conversion.time_steps", "at least one"]),
            (conversion(conversion={"time_steps": [0]}), ["models.0.conversion.time_steps.0"]),
            (conversion(normalize=[[0.5] * 3, [0.2] * 3], conversion={}), ["qcfs", "3"]),
            (model(checkpoint="nowhere.safetensors"), ["nowhere.safetensors does not exist"]),
        ],
    )
    def test_that_make_no_sense_are_refused(self, tmp_path, monkeypatch, settings, words):
        monkeypatch.chdir(tmp_path)
        message = refusal(settings, tmp_path / "out")
        assert all(word in message for word in words), message

    def test_the_last_model_is_checked_before_the_first_is_trained(self, tmp_path):
        assert "vgg11" in refusal(content(PLAIN, QCFS | {"architecture": "vgg1"}), tmp_path / "out")

    def test_how_many_things_are_wrong(self, tmp_path):
        wrong = content(batch_size=0, verify_draws=0, seed="x")
        assert refusal(wrong, tmp_path / "out").endswith("(and 2 more)")
        assert "more" not in refusal(content(batch_size=0), tmp_path / "out")


class TestFolderThatCannotBeWritten:
    @pytest.mark.usefixtures("no_work")
    def test_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        for out in (tmp_path / "file", tmp_path / "file" / "out"):
            with pytest.raises(RobustSNNError, match=r"cannot write to the folder .*; choose another with --out"):
                run_benchmark(tiny(), out)

    def test_is_not_taken_for_another_run(self, tmp_path):
        RunFolder(tmp_path / "a", {"x": 1, "y": [1, {"z": 2}]})
        RunFolder(tmp_path / "a", {"y": (1, {"z": 2}), "x": 1})
        with pytest.raises(RobustSNNError, match=r"\(other x, y\.1\.z\)"):
            RunFolder(tmp_path / "a", {"x": 2, "y": [1, {"z": 3}]})
        with pytest.raises(RobustSNNError, match=r"\(other w, x, y\)"):
            RunFolder(tmp_path / "a", {"w": None or 0, "y": [1]})


class TestReading:
    def written(self, tmp_path: Path, text: str | bytes) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("models: [", ["not valid YAML", "line 1"]),
            ("data: {}\n\tmodels: []\n", ["not valid YAML", "line 2"]),
            ("a: b: c\n", ["not valid YAML", "line 1"]),
            ("- one\n- two\n", ["must hold keys and values", "got list"]),
            ("", ["must hold keys and values", "NoneType"]),
            ("models\n", ["must hold keys and values", "got str"]),
            (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", ["not a text file"]),
            (b"models: \x00\x01", ["not valid YAML"]),
            ("models: !!python/object/apply:os.system ['true']\n", ["not valid YAML"]),
            ("1: 2\nmodels: [{name: x}]\n", ["mine.yaml"]),
        ],
    )
    def test_what_is_no_configuration(self, tmp_path, text, words):
        with pytest.raises(RobustSNNError) as caught:
            read_config(self.written(tmp_path, text))
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert "mine.yaml" in message
        assert all(word in message for word in words), message

    def test_missing_file_and_folder(self, tmp_path):
        with pytest.raises(RobustSNNError, match=r"cannot read the configuration .*none\.yaml: No such file"):
            read_config(tmp_path / "none.yaml")
        with pytest.raises(RobustSNNError, match=r"cannot read the configuration .*directory"):
            read_config(tmp_path)

    @pytest.mark.parametrize("dataset", ["digits", "cifar10"])
    def test_a_dumped_configuration_is_read_back_the_same(self, tmp_path, dataset):
        config = main_job(dataset)
        text = yaml.safe_dump(config.model_dump(mode="json"))
        assert read_config(self.written(tmp_path, text)) == config

    def test_defaults_and_radii(self, tmp_path):
        config = read_config(self.written(tmp_path, "models: [{name: m}]\neps: [8/255, 0.5, 2/255, 8/255, 0]\n"))
        assert config.eps == (0.0, 2 / 255, 8 / 255, 0.5)
        assert config.models[0].neuron.kind == "if"
        assert config.data.name == "digits"
        assert isinstance(config, BenchmarkConfig)

    @pytest.mark.parametrize(
        ("text", "value"),
        [("8/255", 8 / 255), ("0.03", 0.03), ("1", 1.0), (" 2 / 255 ", 2 / 255), ("1e-3", 1e-3), ("-1/255", -1 / 255)],
    )
    def test_radius(self, text, value):
        assert parse_eps(text) == value

    @pytest.mark.parametrize("text", ["abc", "", "8/", "/255", "1/0", "8/255/2", "0x8", "8:255"])
    def test_no_radius(self, text):
        with pytest.raises(RobustSNNError, match="eps must be a number such as 8/255"):
            parse_eps(text)

    @pytest.mark.parametrize("text", ["1e999999999", "nan", "inf", "1e300/1e-300"])
    def test_a_radius_that_is_not_finite_is_refused_at_once(self, text):
        with pytest.raises(RobustSNNError, match="finite"):
            tiny(eps=[text])


def test_progress_needs_no_watcher():
    silent = Progress()
    silent.start("stage", 1.0)
    silent.advance(1.0, "detail")
    silent.note("message")
