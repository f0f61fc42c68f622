"""The command line: every command with tiny settings, and every mistake as one readable line and status 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from safetensors.torch import save_file
from tiny_benchmark import PLAIN, content, results, samples, write_npz
from typer.testing import CliRunner

import robustsnn
from robustsnn.attacks import ATTACKS
from robustsnn.checkpoint import load_checkpoint, save_checkpoint, write_tensors
from robustsnn.cli import app
from robustsnn.datasets import load
from robustsnn.evaluation import preparation
from robustsnn.evaluation.statistics import rate
from robustsnn.models import ActivationSpec, ModelSpec, NeuronSpec
from robustsnn.terminal import Bars, console, print_catalogue

COMMANDS = ("benchmark", "evaluate", "train", "show", "convert", "report", "list")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSNN_MALLOC", "default")
    monkeypatch.setattr(console, "_width", 200)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def refuse(*arguments: object) -> str:
    """The one line on stderr with which a command is refused."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)
    line = result.stderr.removesuffix("\n")
    assert line.startswith("robustsnn: ")
    assert "\n" not in line
    return line


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def write_config(path: Path, *models: dict[str, Any], **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(content(*models, **changes)))
    return path


def write_model(path: Path, neuron: NeuronSpec | ActivationSpec | None = None, record: Any = None, **spec: Any) -> Path:
    """A file of an untrained model for digits."""
    spec = {"image_shape": (1, 8, 8), "num_classes": 10, "time_steps": 2, "options": {"width": 4, "hidden": 16}} | spec
    described = ModelSpec(neuron=neuron or NeuronSpec(v_threshold=0.5), **spec)
    torch.manual_seed(0)
    save_checkpoint(path, described.build(), described, record or {"dataset": "digits"})
    return path


@pytest.fixture
def small_cnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CNN of the command line's recipes in its smallest size."""
    whole = preparation.spec_of
    small = {"width": 4, "hidden": 16}

    def spec_of(*args: Any) -> ModelSpec:
        return whole(*args).model_copy(update={"options": small})

    monkeypatch.setattr("robustsnn.evaluation.preparation.spec_of", spec_of)
    monkeypatch.setattr("robustsnn.evaluation.single.spec_of", spec_of)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plots, which take longer than a small run itself."""
    monkeypatch.setattr("robustsnn.cli._report", lambda folder: None)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr(preparation, "train", fail)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_of_a_command_shows_an_example(self, command):
        text = succeed(command, "--help")
        assert "Example" in text
        assert re.search(rf"robustsnn\s+{command}\s", text)
        assert succeed(command, "-h") == text

    def test_every_option_and_command_says_what_it_is_for(self):
        group = typer.main.get_command(app)
        commands = group.commands  # type: ignore[attr-defined]
        assert set(commands) == set(COMMANDS)
        for name, command in commands.items():
            assert command.help
            for parameter in command.params:
                if parameter.name != "help":
                    assert getattr(parameter, "help", None), f"{name} {parameter.name}"

    def test_without_a_command(self):
        result = call()
        assert "benchmark" in result.stdout + result.stderr
        assert "hand-written" in result.stdout + result.stderr

    def test_version(self):
        assert succeed("--version") == f"robustsnn {robustsnn.__version__}\n"

    def test_a_misspelt_command_or_option_is_suggested(self):
        for arguments, nearest in ((["benchmrk"], "benchmark"), (["train", "--epoch", "3"], "--epochs")):
            result = call(*arguments)
            assert result.exit_code == 2
            assert nearest in result.stderr


class TestProcess:
    def test_import_is_quick_and_lazy(self):
        code = (
            "import sys, time; start = time.perf_counter(); import robustsnn; took = time.perf_counter() - start; "
            "print(took); assert 'torch' not in sys.modules; robustsnn.attacks; assert 'torch' in sys.modules"
        )
        done = python("-c", code)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 2

    @pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["benchmark", "--help"]])
    def test_help_and_version_do_not_wait_for_torch(self, arguments):
        code = (
            f"import sys; from robustsnn.cli import app\ntry: app({arguments!r})\n"
            "except SystemExit as leaving: assert not leaving.code, leaving.code\n"
            "assert not {'torch', 'numpy', 'numba'} & set(sys.modules), sorted(sys.modules)"
        )
        done = python("-c", code)
        assert done.returncode == 0, done.stderr
        assert "robustsnn" in done.stdout

    @pytest.mark.parametrize("module", ["robustsnn.cli", "robustsnn"])
    def test_runs_as_a_module(self, module):
        done = python("-m", module, "--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"robustsnn {robustsnn.__version__}\n", "")

    def test_an_error_is_one_line_on_stderr_and_status_2(self):
        done = python("-m", "robustsnn", "evaluate", "nowhere.safetensors")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == "robustsnn: nowhere.safetensors does not exist; expected a model file\n"


class TestList:
    def test_everything(self):
        text = succeed("list")
        for name in ("digits", "cifar10", "vgg11", "bptr", "apgd-ce", "gaussian", "sr", "qcfs", "opi", "ATan"):
            assert re.search(rf"\b{name}\b", text), name

    def test_one_kind(self):
        lines = succeed("list", "attacks").splitlines()
        assert lines[0].strip() == "attacks"
        assert [line.split()[0] for line in lines[1:] if line.strip()] == list(ATTACKS)
        assert "[-eps, eps]" in succeed("list", "attacks")
        assert "apgd" not in succeed("list", "rules")

    def test_an_unknown_kind(self):
        assert "unknown kind 'atacks'. Did you mean 'attacks'?" in refuse("list", "atacks")

    def test_brackets_are_shown_as_they_are(self, capsys):
        print_catalogue({"kind": {"name": "in [a, b] or [/x]"}}, console)
        assert "in [a, b] or [/x]" in capsys.readouterr().out


class TestBars:
    def test_stages_are_told_where_no_terminal_is(self, capsys):
        with Bars() as bars:
            bars.start("train plain", 2.0)
            bars.advance(1.0, "epoch 1 [/x]")
            bars.note("note [/y]")
        assert capsys.readouterr().out.splitlines() == ["train plain ...", "note [/y]"]

    def test_titles_with_brackets_do_not_break_the_bar(self, monkeypatch):
        monkeypatch.setattr(console, "_force_terminal", True)
        bars = Bars()
        bars.start("attack m", 2.0)
        bars.advance(1.0, "PGD [/50]")
        with console.capture() as captured:
            console.print(bars._bars.get_renderable())
        assert "PGD [/50]" in captured.get()
        assert "50 %" in captured.get()


@pytest.mark.usefixtures("no_training")
class TestBadData:
    @staticmethod
    def arrays(**changes: Any) -> dict[str, np.ndarray]:
        with np.load(write_npz(Path("good.npz"))) as good:
            return {key: good[key] for key in good.files} | changes

    def bad(self, kind: str) -> dict[str, Any]:
        good = self.arrays()
        images = good["x_test"].astype(np.float32) / 255
        images[7, 3, 3] = {"nan": np.nan, "above": 1.5, "below": -0.1}.get(kind, images[7, 3, 3])
        labels = good["y_test"].copy()
        labels[4] = {"negative": -1, "high": 3}.get(kind, labels[4])
        return {
            "nan": {"x_test": images},
            "above": {"x_test": images},
            "below": {"x_test": images},
            "flat": {"x_train": good["x_train"].reshape(len(good["x_train"]), -1)},
            "sizes": {"x_test": good["x_test"][:, :6, :6]},
            "negative": {"y_test": labels},
            "high": {"y_test": labels},
            "count": {"y_train": good["y_train"][:-1]},
            "empty": {"x_test": good["x_test"][:0], "y_test": good["y_test"][:0]},
            "one class": {"y_train": good["y_train"] * 0},
        }[kind]

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("nan", ["x_test", "1 NaN pixel", "image 7"]),
            ("above", ["x_test", "outside [0, 1]", "image 7"]),
            ("below", ["x_test", "outside [0, 1]", "image 7"]),
            ("flat", ["x_train", "(240, 64)", "[N, H, W]"]),
            ("sizes", ["(240, 8, 8)", "(30, 6, 6)"]),
            ("negative", ["y_test", "-1", "position 4"]),
            ("high", ["y_test", "3 at position 4"]),
            ("count", ["240 images", "239 labels"]),
            ("empty", ["x_test", "empty"]),
            ("one class", ["class"]),
        ],
    )
    def test_in_an_npz(self, kind, words):
        write_npz(Path("bad.npz"), **self.bad(kind))
        for command in (["benchmark", "--out", "o"], ["train", "--out", "m.safetensors"]):
            line = refuse(*command, "--dataset", "npz", "--data-root", "bad.npz")
            assert all(word in line for word in words), line
        assert not Path("o").exists()

    def test_missing_and_foreign_files(self):
        assert "needs the path" in refuse("benchmark", "--dataset", "npz")
        assert "none.npz does not exist" in refuse("benchmark", "--dataset", "npz", "--data-root", "none.npz")
        Path("text.npz").write_text("no archive")
        assert "text.npz" in refuse("train", "--dataset", "npz", "--data-root", "text.npz")

    @pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
    def test_missing_root(self, dataset):
        assert "--data-root" in refuse("benchmark", "--dataset", dataset, "--out", "o")
        assert "nowhere" in refuse("benchmark", "--dataset", dataset, "--data-root", "nowhere", "--out", "o")
        assert not Path("o").exists()


@pytest.mark.usefixtures("no_training")
class TestBadOptions:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["benchmark", "--dataset", "mnst"], ["unknown data set 'mnst'. Did you mean 'mnist'?"]),
            (["train", "--dataset", "digit"], ["Did you mean 'digits'?"]),
            (["train", "--model", "vgg"], ["unknown model 'vgg'. Did you mean 'vgg9'?"]),
            (["train", "--neuron", "liff"], ["unknown neuron 'liff'. Did you mean 'lif'?"]),
            (["train", "--encoder", "poison"], ["encoder", "'direct', 'poisson'"]),
            (["train", "--objective", "sra"], ["unknown objective 'sra'. Did you mean 'sr'?"]),
            (["train", "--objective", "sr", "--lam", "-1"], ["lam", "at least 0"]),
            (["train", "--objective", "sr", "--lam", "nan"], ["lam", "at least 0"]),
            (["train", "--time-steps", "0"], ["time_steps", "greater than or equal to 1"]),
            (["train", "--lr", "0"], ["training.lr", "greater than 0"]),
            (["train", "--lr", "nan"], ["training.lr"]),
            (["train", "--out", "."], [". is a folder; --out takes the name of a file"]),
            (["train", "--out", "m.training"], ["m.training is where the epochs would be kept"]),
            (["evaluate", "m.safetensors", "--attack", "pgdd"], ["unknown attack 'pgdd'. Did you mean 'pgd'?"]),
            (["evaluate", "m.safetensors", "--rule", "bptx"], ["unknown gradient rule 'bptx'. Did you mean 'bpt"]),
            (["evaluate", "m.safetensors", "--eps", "-1/255"], ["eps", "at least 0"]),
            (["evaluate", "m.safetensors", "--eps", "8/255", "--eps", "abc"], ["eps must be a number", "'abc'"]),
            (["evaluate", "m.safetensors", "--norm", "L3"], ["norm", "'Linf', 'L2', 'L1' or 'L0'"]),
            (["evaluate", "m.safetensors", "--time-steps", "0"], ["SNN of 2 steps"]),
            (["evaluate", "ann.safetensors", "--time-steps", "0"], ["time_steps", "greater than or equal to 1"]),
            (["evaluate", "m.safetensors", "--dataset", "minst"], ["Did you mean 'mnist'?"]),
            (["evaluate", "m.safetensors", "rgb.safetensors"], ["rgb.safetensors takes images (3, 8, 8)", "(1, 8, 8)"]),
            (["evaluate", "m.safetensors", "cifar.safetensors"], ["cifar10, digits", "--dataset"]),
            (["convert", "m.safetensors"], ["is an SNN already"]),
            (["convert", "ann.safetensors", "--time-steps", "0"], ["time_steps must be at least 1"]),
            (["convert", "ann.safetensors", "--method", "qcf"], ["method", "Did you mean 'qcfs'?"]),
            (
                ["convert", "ann.safetensors", "--method", "all", "--out", "x.safetensors", "--option", "a=1"],
                ["one method"],
            ),
            (["convert", "ann.safetensors", "--correction", "cost"], ["correction", "srp or cos"]),
            (["convert", "ann.safetensors", "--probe-steps", "4"], ["add --correction srp"]),
            (
                ["convert", "ann.safetensors", "--correction", "cos", "--probe-steps", "-1"],
                ["probe_steps", "equal to 0"],
            ),
            (["convert", "ann.safetensors", "--option", "percentile"], ["KEY=VALUE"]),
            (["convert", "ann.safetensors", "--option", "percentile=9"], ["unknown option 'percentile'"]),
            (["convert", "ann.safetensors", "--option", "cos.iterations=2"], ["add --correction cos"]),
            (["convert", "ann.py"], ["ann.py:FUNCTION"]),
            (["convert", "ann.safetensors", "--method", "opi"], ["opi converts relu"]),
            (["convert", "ann.safetensors", "--v-init", "nan"], ["v_init"]),
            (["convert", "ann.safetensors", "--out", "ann.safetensors"], ["is the ANN itself"]),
            (["convert", "ann.safetensors", "--out", "."], ["is a folder"]),
            (["report", "."], ["no results.json"]),
            (["report", "nowhere"], ["no folder 'nowhere'"]),
        ],
    )
    def test_are_refused(self, arguments, words):
        write_model(Path("m.safetensors"))
        write_model(Path("ann.safetensors"), ActivationSpec(kind="qcfs", levels=4))
        write_model(Path("rgb.safetensors"), image_shape=(3, 8, 8))
        write_model(Path("cifar.safetensors"), record={"dataset": "cifar10"})
        before = Path("ann.safetensors").read_bytes()
        line = refuse(*arguments)
        assert all(word in line for word in words), line
        assert Path("ann.safetensors").read_bytes() == before
        assert not Path("out").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "toaster"])
    def test_a_device_that_is_not_there(self, device):
        write_model(Path("m.safetensors"))
        write_model(Path("ann.safetensors"), ActivationSpec(kind="qcfs"))
        for command in (["benchmark"], ["train"], ["evaluate", "m.safetensors"], ["convert", "ann.safetensors"]):
            line = refuse(*command, "--device", device)
            assert repr(device) in line
            assert "--device cpu" in line

    def test_an_output_folder_that_cannot_be_written(self):
        Path("file").touch()
        write_model(Path("m.safetensors"))
        write_model(Path("ann.safetensors"), ActivationSpec(kind="qcfs"))
        for command, out in (
            (["benchmark"], "file/out"),
            (["benchmark"], "file"),
            (["benchmark", "--fresh"], "file"),
            (["evaluate", "m.safetensors"], "file/out"),
            (["train"], "file/m.safetensors"),
            (["convert", "ann.safetensors"], "file/m.safetensors"),
        ):
            assert "cannot write to the folder file" in refuse(*command, "--out", out)

    def test_a_configuration_with_a_misspelt_key(self):
        text = write_config(Path("mine.yaml"), PLAIN).read_text()
        Path("mine.yaml").write_text(text.replace("epochs:", "epoch:"))
        line = refuse("benchmark", "--config", "mine.yaml")
        assert "mine.yaml: at models.0.training: unknown key 'epoch'. Did you mean 'epochs'?" in line
        assert "cannot read the configuration none.yaml" in refuse("benchmark", "--config", "none.yaml")


class TestFresh:
    @pytest.mark.usefixtures("no_training")
    def test_refuses_to_delete_what_is_no_run(self):
        Path("thesis").mkdir()
        Path("thesis/chapter.tex").write_text("years of work")
        assert "thesis is not the folder of a robustsnn run" in refuse("benchmark", "--out", "thesis", "--fresh")
        assert Path("thesis/chapter.tex").read_text() == "years of work"
        for command in (["train", "--out", "thesis", "--fresh"], ["train", "--out", "thesis/a.training", "--fresh"]):
            refuse(*command)
        assert Path("thesis/chapter.tex").exists()

    @pytest.mark.usefixtures("no_training")
    def test_of_an_evaluation_keeps_the_models_it_is_about(self):
        Path("out/evaluation/models").mkdir(parents=True)
        Path("out/evaluation/config.json").write_text('{"tool": "robustsnn"}')
        file = write_model(Path("out/evaluation/models/m.safetensors"))
        assert "which --fresh would delete" in refuse("evaluate", file, "--fresh")
        assert "another configuration" in refuse("evaluate", file)
        assert file.exists()

    @pytest.mark.usefixtures("no_training")
    def test_of_a_training_deletes_nothing_before_all_is_checked(self):
        file = write_model(Path("m.safetensors"))
        refuse("train", "--out", file, "--fresh", "--model", "vgg")
        assert file.exists()

    @pytest.mark.usefixtures("small_cnn")
    def test_of_a_training_starts_again(self):
        Path("m.training").mkdir()
        Path("m.training/notes.txt").touch()
        succeed("train", "--time-steps", 1, "--epochs", 1, "--out", "m.safetensors")
        assert "holds the training of another run" in refuse(
            "train", "--time-steps", 2, "--epochs", 1, "--out", "m.safetensors"
        )
        succeed("train", "--time-steps", 2, "--epochs", 1, "--out", "m.safetensors", "--fresh")
        assert load_checkpoint("m.safetensors").spec.time_steps == 2
        assert Path("m.training/notes.txt").exists()


@pytest.mark.usefixtures("no_training")
class TestBadCheckpoints:
    def every_command(self, file: Path) -> list[str]:
        return [refuse("evaluate", file), refuse("convert", file)]

    def test_missing_damaged_foreign(self):
        whole = write_model(Path("whole.safetensors")).read_bytes()
        files: dict[str, bytes] = {"text": b"not a model", "empty": b"", "cut": whole[: len(whole) // 2]}
        for name, data in files.items():
            Path(f"{name}.safetensors").write_bytes(data)
            for line in self.every_command(Path(f"{name}.safetensors")):
                assert f"{name}.safetensors cannot be read as a safetensors file" in line
        for line in self.every_command(Path("none.safetensors")):
            assert "none.safetensors does not exist" in line
        for line in self.every_command(Path()):
            assert ". is a folder" in line

    def test_of_other_programs(self):
        torch.save({"weight": torch.zeros(3)}, "pickled.pt")
        save_file({"weight": torch.zeros(3)}, "other.safetensors")
        assert all("pickled .pt" in line for line in self.every_command(Path("pickled.pt")))
        assert all("was not written by robustsnn" in line for line in self.every_command(Path("other.safetensors")))

    def test_nan_weights(self):
        spec = load_checkpoint(write_model(Path("m.safetensors"))).spec
        model = spec.build()
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = float("nan")
        write_tensors(
            "nan.safetensors", "model", model.state_dict(), {"spec": spec.model_dump(mode="json"), "record": {}}
        )
        assert all("holds NaN or infinite values" in line for line in self.every_command(Path("nan.safetensors")))

    @pytest.mark.parametrize("neuron", [None, ActivationSpec(kind="qcfs"), ActivationSpec(kind="relu")])
    def test_a_network_of_finite_weights_that_returns_nan(self, neuron):
        """Its logits overflow; argmax would quietly make class 0 of it."""
        found = load_checkpoint(write_model(Path("m.safetensors"), neuron))
        with torch.no_grad():
            list(found.model.parameters())[-1].copy_(torch.tensor([3e38, -3e38] * 5))
            for parameter in list(found.model.parameters())[:-1]:
                parameter.copy_(parameter.abs())
            list(found.model.parameters())[-2].copy_(torch.tensor([3e38, -3e38] * 5)[:, None])
        save_checkpoint("huge.safetensors", found.model, found.spec, found.record)
        assert "huge: the model returned NaN or infinite logits" in refuse(
            "evaluate", "huge.safetensors", "--n-test", 8
        )
        if neuron is not None:
            assert "NaN or infinite logits" in refuse("convert", "huge.safetensors", "--n-test", 8)


class TestBenchmark:
    def test_show_config_is_a_configuration(self):
        """Printed, edited, given back: the same run."""
        text = succeed("benchmark", "--show-config", "--seed", 3, "--epochs", 2)
        settings = yaml.safe_load(text)
        assert settings["seed"] == 3
        assert {m["training"]["seed"] for m in settings["models"]} == {3}
        Path("same.yaml").write_text(text)
        assert succeed("benchmark", "--config", "same.yaml", "--show-config") == text
        for model in settings["models"]:
            model |= {"options": {"width": 4, "hidden": 16}, "time_steps": 2}
            model["training"] |= {"epochs": 1, "batch_size": 32, "lr": 0.01}
        settings |= {"eps": [8 / 255], "noises": settings["noises"][:1], "gradients": {"n_images": 4, "draws": 1}}
        settings["models"][2]["conversion"]["time_steps"] = [2]
        for attack in settings["attacks"][1:]:
            attack["params"]["steps"] = 2
        Path("mine.yaml").write_text(yaml.safe_dump(settings))
        printed = succeed("benchmark", "--config", "mine.yaml", "--n-test", 20, "--out", "o")
        found = results(Path("o"))
        assert found["complete"]
        assert found["dataset"]["n_evaluated"] == 20
        assert [m["title"] for m in found["models"]] == ["Plain SNN", "SR-trained SNN", "QCFS-converted SNN"]
        for stage in ("train plain ...", "attack plain ...", "train sr ...", "attack qcfs ..."):
            assert stage in printed
        for model in found["models"]:
            clean = model["clean"]["value"]
            assert re.search(rf"{model['title']} +{100 * clean:.1f} ", printed), printed
        for file in (
            "report.html",
            "results.json",
            "samples.parquet",
            "gradients.parquet",
            "examples.npz",
            "config.json",
        ):
            assert Path("o", file).stat().st_size > 0, file
        assert list(Path("o/plots").iterdir())
        assert len(list(Path("o/models").glob("*.safetensors"))) == 3
        assert "Report: o/report.html" in printed
        page = Path("o/report.html").read_bytes()
        Path("o/report.html").unlink()
        again = succeed("report", "o")
        assert Path("o/report.html").stat().st_size == pytest.approx(len(page), rel=0.01)
        assert again in printed

    def test_options_change_the_entries_of_a_configuration(self):
        write_config(Path("mine.yaml"), PLAIN, seed=1)
        options = ["--n-test", 7, "--epochs", 3, "--seed", 5, "--dataset", "npz", "--data-root", "x.npz"]
        shown = yaml.safe_load(succeed("benchmark", "--config", "mine.yaml", "--show-config", *options))
        assert shown["data"] == {"name": "npz", "root": "x.npz", "download": False, "n_train": None, "n_test": 7}
        assert shown["seed"] == shown["models"][0]["training"]["seed"] == 5
        assert shown["models"][0]["training"]["epochs"] == 3
        untouched = yaml.safe_load(succeed("benchmark", "--config", "mine.yaml", "--show-config"))
        assert untouched["seed"] == 1
        assert untouched["data"]["n_test"] == 40

    @pytest.mark.usefixtures("no_report")
    def test_an_interrupted_run_goes_on(self, monkeypatch):
        changes = {"gradients": {"n_images": 0}, "attacks": [{"name": "fgsm"}], "eps": [0.1]}
        write_config(Path("mine.yaml"), PLAIN, **changes)
        advance, reports = Bars.advance, []

        def interrupt(bars: Bars, units: float, detail: str = "") -> None:
            advance(bars, units, detail)
            reports.append(detail)
            if len(reports) == 90:
                raise KeyboardInterrupt

        monkeypatch.setattr(Bars, "advance", interrupt)
        result = call("benchmark", "--config", "mine.yaml", "--out", "o")
        assert result.exit_code == 130
        assert result.stderr.strip() == "robustsnn: interrupted; run the same command again to go on"
        done = len(list(Path("o/work").iterdir()))
        assert done > 0
        assert not Path("o/samples.parquet").exists()
        printed = succeed("benchmark", "--config", "mine.yaml", "--out", "o")
        assert "train plain" not in printed
        assert len(samples(Path("o"))) == 40 * (1 + 2 + 2)
        assert "another configuration (other models.0.training.seed, seed)" in refuse(
            "benchmark", "--config", "mine.yaml", "--out", "o", "--seed", 9
        )


@pytest.mark.usefixtures("small_cnn")
class TestTrainEvaluateConvert:
    def accuracy(self, printed: str) -> float:
        found = re.search(r"test accuracy ([\d.]+) % \[", printed)
        assert found, printed
        return float(found[1])

    def test_a_spiking_network(self):
        options = ["--time-steps", 2, "--epochs", 2, "--batch-size", 32, "--lr", 0.01, "--neuron", "lif"]
        printed = succeed("train", *options, "--objective", "sr", "--lam", 0.001, "--out", "nets/lif.safetensors")
        found = load_checkpoint("nets/lif.safetensors")
        images, labels = load("digits").test.batch(slice(None))
        with torch.no_grad():
            count = int((found.model(images).argmax(1) == labels).sum())
        assert count > 150
        assert found.record["test_accuracy"] == rate(count, 360).as_dict()
        assert self.accuracy(printed) == pytest.approx(100 * count / 360, abs=0.06)
        assert "n = 360" in printed
        assert (found.spec.neuron.kind, found.spec.time_steps) == ("lif", 2)
        assert found.record["objective_options"] == {"lam": 0.001}
        assert Path("nets/lif.training/log.csv").exists()

        chosen = [
            "--attack",
            "pgd",
            "--attack",
            "sign",
            "--rule",
            "bptr",
            "--eps",
            "8/255",
            "--eps",
            "0.1",
            "--steps",
            2,
        ]
        printed = succeed("evaluate", "nets/lif.safetensors", *chosen, "--n-test", 40, "--out", "e")
        (model,) = results(Path("e"))["models"]
        assert model["name"] == "lif"
        measured = {(a["title"], a["rule"], round(a["eps"], 4)) for a in model["attacks"]}
        assert measured == {(*a, e) for a in (("PGD-2", "BPTR"), ("sign", None)) for e in (0.0314, 0.1)}
        assert f"{100 * model['clean']['value']:.1f}" in printed
        assert Path("e/report.html").exists()
        assert not list(Path("e/models").iterdir())

    def test_logs_for_tensorboard(self):
        pytest.importorskip("tensorboard")
        succeed(
            "train", "--time-steps", 1, "--epochs", 1, "--batch-size", 256, "--out", "m.safetensors", "--tensorboard"
        )
        assert list(Path("m.training/tensorboard").glob("events*"))

    @pytest.mark.usefixtures("no_report")
    @pytest.mark.parametrize(("neuron", "method"), [("qcfs", "qcfs"), ("relu", "opi")])
    def test_an_ann_that_is_converted(self, neuron, method):
        succeed(
            "train", "--neuron", neuron, "--epochs", 2, "--batch-size", 32, "--lr", 0.01, "--out", "ann.safetensors"
        )
        printed = succeed("convert", "ann.safetensors", "--time-steps", 4, "--n-test", 60)
        ann, snn = load_checkpoint("ann.safetensors"), load_checkpoint("converted.safetensors")
        assert (snn.spec.neuron.kind, snn.spec.time_steps, snn.model.time_steps) == ("scaled-if", 4, 4)
        images, labels = load("digits").test.batch(slice(60))
        with torch.no_grad():
            right = [int((m(images).argmax(1) == labels).sum()) for m in (ann.model, snn.model)]
        assert right[0] > 30
        header, row = (line.split() for line in printed.splitlines()[2:4])
        shown = dict(zip(header[1:], row[1:]))
        assert header[1:] == ["ANN", "quantised", "T=1", "T=2", "T=4", "T=8", "T=16", "T=32", "n"]
        assert shown["quantised" if neuron == "qcfs" else "ANN"] == f"{100 * right[0] / 60:.1f}"
        assert shown["T=4"] == f"{100 * right[1] / 60:.1f}"
        assert shown["n"] == "60"
        assert row[0] == method
        assert "`robustsnn evaluate converted.safetensors`" in printed

        options = ["--attack", "fgsm", "--eps", "0.05", "--n-test", 60, "--rule", "bptr"]
        succeed("evaluate", "converted.safetensors", *options, "--out", "e1")
        succeed("evaluate", "ann.safetensors", "--time-steps", 4, *options, "--out", "e2")
        (stored,), (converted,) = (results(Path(out))["models"] for out in ("e1", "e2"))
        assert stored["clean"]["count"] == right[1]
        assert stored["clean"] == converted["clean"]
        assert [a["accuracy"] for a in stored["attacks"]] == [a["accuracy"] for a in converted["attacks"]]
        assert stored["kind"] == converted["kind"] == "converted"
        assert len(results(Path("e2"))["conversions"]) == 1

    def test_an_interrupted_training_goes_on_to_the_same_weights(self, monkeypatch):
        options = ["--epochs", 3, "--time-steps", 1, "--batch-size", 128]
        succeed("train", *options, "--out", "whole.safetensors")
        advance, reports = Bars.advance, []

        def interrupt(bars: Bars, units: float, detail: str = "") -> None:
            advance(bars, units, detail)
            reports.append(detail)
            if len(reports) == 17:  # in the second epoch of eleven batches
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Bars, "advance", interrupt)
            result = call("train", *options, "--out", "cut.safetensors")
        assert result.exit_code == 130
        assert "run the same command again" in result.stderr
        assert not Path("cut.safetensors").exists()
        started = []
        monkeypatch.setattr(Bars, "advance", lambda bars, units, detail="": started.append(detail))
        succeed("train", *options, "--out", "cut.safetensors")
        assert started[0].startswith("epoch 2")
        whole, cut = (load_checkpoint(f"{name}.safetensors") for name in ("whole", "cut"))
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, cut.model.state_dict()[name]), name
        assert whole.record["test_accuracy"] == cut.record["test_accuracy"]

    @pytest.mark.usefixtures("no_report")
    def test_own_images_all_the_way(self):
        write_npz(Path("mine.npz"))
        data = ["--data-root", "mine.npz"]
        succeed(
            "train",
            "--dataset",
            "npz",
            *data,
            "--epochs",
            1,
            "--batch-size",
            16,
            "--time-steps",
            2,
            "--out",
            "m.safetensors",
        )
        assert "--data-root" in refuse("evaluate", "m.safetensors")
        succeed("evaluate", "m.safetensors", *data, "--attack", "fgsm", "--eps", "0.1", "--rule", "bptt", "--out", "e")
        assert results(Path("e"))["dataset"]["name"] == "mine.npz"
        assert results(Path("e"))["dataset"]["n_evaluated"] == 30

    @pytest.mark.usefixtures("no_report")
    def test_models_of_one_name_in_different_folders_are_told_apart(self):
        for folder in ("a", "b"):
            Path(folder).mkdir()
            write_model(Path(folder, "my net (1).safetensors"))
        files = ["a/my net (1).safetensors", "b/my net (1).safetensors"]
        options = ["--attack", "fgsm", "--eps", "0.1", "--rule", "bptt", "--n-test", 4]
        succeed("evaluate", *files, *options, "--out", "e")
        models = results(Path("e"))["models"]
        assert [m["name"] for m in models] == ["my-net--1-", "my-net--1--2"]
        assert [m["title"] for m in models] == files


class TestTrainFromAFile:
    CONFIG = """
data: {name: digits}
models:
  - name: small
    options: {width: 4, hidden: 16}
    time_steps: 2
    neuron: {kind: lif}
    training: {epochs: 1}
"""

    def test_the_recipe_of_the_file_is_trained(self):
        Path("one.yaml").write_text(self.CONFIG)
        result = call("train", "one.yaml", "--out", "small.safetensors")
        assert result.exit_code == 0, result.stderr
        spec = load_checkpoint("small.safetensors").spec
        assert (spec.time_steps, spec.neuron.kind, spec.options) == (2, "lif", {"width": 4, "hidden": 16})

    @pytest.mark.usefixtures("no_training")
    def test_a_file_without_one_recipe_is_refused(self):
        Path("two.yaml").write_text(self.CONFIG + "  - name: other\n")
        assert "2 models (small, other)" in refuse("train", "two.yaml")
        Path("done.yaml").write_text("models: [{name: m, checkpoint: m.safetensors}]\n")
        assert "trained already" in refuse("train", "done.yaml")
