"""Recipes: every one in the package trains what it says, options change their entries, and mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from robustsnn.checkpoint import load_checkpoint
from robustsnn.cli import app
from robustsnn.datasets import ImageDataset, Split
from robustsnn.defenses import SR
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation import preparation, recipes
from robustsnn.evaluation.data import load_data
from robustsnn.evaluation.objectives import objective_of
from robustsnn.evaluation.preparation import spec_of

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
SHAPES["cifar100"] = SHAPES["cifar10"]
NARROW = {"cnn": {"width": 2, "hidden": 8}, "wrn16-4": {"width": 0.25}, "resnet20": {"width": 0.25}}
NARROW |= {name: {"width": 0.03} for name in ("vgg9", "vgg11", "vgg16")}


def stand_in(name: str) -> ImageDataset:
    """Two noise images of every class, of the shape of a data set."""
    classes = 100 if name == "cifar100" else 10
    labels = torch.arange(2 * classes) % classes
    images = torch.rand(2 * classes, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    split = Split(images, labels)
    return ImageDataset(name, split, split, classes, tuple(map(str, range(classes))))


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refuse(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert result.stderr.startswith("robustsnn: ")
    return str(result.stderr).strip()


class TestInThePackage:
    def test_there_are_all_that_the_documentation_promises(self):
        names = recipes.available()
        for paper in ("sr-cifar10-vgg11", "sr-cifar10-wrn16-4", "rat-cifar10-vgg11", "feel-cifar10-vgg11"):
            assert paper in names
        for data in ("digits", "mnist", "fashion-mnist", "cifar10-small"):
            assert {f"{kind}-{data}" for kind in ("plain", "sr", "at", "sr-at")} <= set(names)

    @pytest.mark.parametrize("name", recipes.available())
    def test_every_one_builds_its_model_and_its_objective_takes_a_step(self, name):
        recipe = recipes.recipe_of(name)
        assert recipe.about
        text = (Path(recipes.__file__).parents[1] / "recipes" / f"{name}.yaml").read_text()
        assert text.startswith("# ")
        data = stand_in(recipe.data.name)
        with torch.device("meta"):
            whole = spec_of(recipe.model, data).build()
        assert sum(p.numel() for p in whole.parameters()) > 1000
        options = recipe.model.options | NARROW[recipe.model.architecture]
        small = recipe.model.model_copy(update={"options": options, "time_steps": 2})
        preparation.check_model(small, data)
        model, objective = preparation.build_model(spec_of(small, data), 0), objective_of(small)
        loss = objective(model.train(), *data.train.batch(slice(4)))
        loss.total.backward()
        assert torch.isfinite(loss.total)
        assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())

    def test_says_what_its_name_says(self):
        recipe = recipes.recipe_of("sr-cifar10-vgg11")
        assert objective_of(recipe.model) == SR(lam=0.002, h=0.01)
        assert (recipe.model.architecture, recipe.model.time_steps, recipe.data.name) == ("vgg11", 8, "cifar10")
        training = recipe.model.training
        assert (training.epochs, training.batch_size, training.optimizer, training.lr) == (200, 32, "sgd", 0.1)
        assert recipes.recipe_of("sr-cifar10-small").data.n_train == 5000


class TestOptions:
    def test_replace_the_entries_of_a_recipe(self):
        recipe = recipes.recipe_of(
            "sr-digits",
            data={"n_train": 100},
            neuron="plif",
            time_steps=3,
            objective="sr(lam=0.5) + at(eps=4/255)",
            training={"epochs": 2, "seed": None},
            changes=["training.warmup_epochs=1", "neuron.tau=4", "data.n_test=7", "model.readout=sum"],
        )
        assert (recipe.data.n_train, recipe.data.n_test) == (100, 7)
        assert (recipe.model.neuron.kind, recipe.model.neuron.tau) == ("plif", 4)
        assert (recipe.model.time_steps, recipe.model.readout) == (3, "sum")
        assert (recipe.model.training.epochs, recipe.model.training.warmup_epochs) == (2, 1)
        assert recipe.model.training.batch_size == 64
        assert repr(objective_of(recipe.model)).startswith("SR(lam=0.5")

    def test_a_weight_goes_to_an_objective_by_name_and_not_into_a_text(self):
        assert objective_of(recipes.recipe_of(objective="sr", lam=0.3).model) == SR(lam=0.3)
        with pytest.raises(RobustSNNError, match="write lam inside its parentheses"):
            objective_of(recipes.recipe_of("sr-digits", lam=0.3).model)

    def test_an_activation_makes_an_ann_with_its_conversion(self):
        model = recipes.recipe_of("sr-cifar10-vgg11", neuron="qcfs", objective="ce").model
        assert model.neuron.kind == "qcfs"
        assert model.conversion is not None
        assert model.conversion.method == "qcfs"

    def test_fractions_are_numbers_in_options_too(self):
        text = recipes.recipe_of(objective="at(eps=8/255, steps=3)").model
        options = text.model_copy(update={"objective": "at", "objective_options": {"eps": "8/255", "steps": 3}})
        assert objective_of(text) == objective_of(options)

    def test_a_printed_recipe_is_the_same_recipe(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shown = call("train", "feel-digits", "--epochs", 3, "--set", "training.grad_clip=1", "--show-recipe").stdout
        Path("mine.yaml").write_text(shown)
        assert yaml.safe_load(shown)["model"]["training"]["grad_clip"] == 1
        assert call("train", "mine.yaml", "--show-recipe").stdout == shown

    def test_the_first_training_images(self):
        config = recipes.recipe_of("sr-digits", data={"n_train": 50}).data
        assert len(load_data(config).train) == 50
        assert len(load_data(config).test) == 360
        with pytest.raises(RobustSNNError, match="cannot take 5000 images"):
            load_data(config.model_copy(update={"n_train": 5000}))


class TestMistakes:
    @pytest.fixture(autouse=True)
    def _nothing_is_trained(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(preparation, "train", lambda *args, **kwargs: pytest.fail("training began"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["sr-digit"], ["unknown recipe 'sr-digit'. Did you mean 'sr-digits'?"]),
            (["none.yaml"], ["cannot read", "none.yaml"]),
            (["sr-digits", "--set", "training.epoch=3"], ["model.training", "'epoch'. Did you mean 'epochs'?"]),
            (["sr-digits", "--set", "model.enkoder=direct"], ["'enkoder'. Did you mean 'encoder'?"]),
            (["sr-digits", "--set", "data.ntrain=3"], ["at data", "Did you mean 'n_train'?"]),
            (["sr-digits", "--set", "training.epochs"], ["KEY=VALUE"]),
            (["sr-digits", "--set", "training.epochs=[1"], ["not a value that YAML can read"]),
            (["sr-digits", "--objective", "sr(lam=-1)"], ["lam", "at least 0"]),
            (["sr-digits", "--objective", "at(eps=-8/255)"], ["eps"]),
            (["sr-digits", "--objective", "at(eps=300/255)"], ["eps", "1"]),
            (["sr-digits", "--objective", "at(eps=8/255) + trades(eps=8/255)"], ["contradictory objectives"]),
            (["sr-digits", "--objective", "at() + at()"], ["contradictory objectives"]),
            (["sr-digits", "--objective", "sr(lam=0.1"], ["cannot read the objective"]),
            (["sr-digits", "--objective", "srr(lam=0.1)"], ["unknown objective", "'sr'"]),
            (["sr-digits", "--n-train", 2000], ["cannot take 2000 images", "1437"]),
            (["sr-digits", "--n-train", 5], ["no training image is of class"]),
            (["sr-digits", "--model", "vgg"], ["unknown model 'vgg'"]),
        ],
    )
    def test_are_one_line_that_says_what_to_do(self, arguments, words):
        line = refuse("train", *arguments)
        assert "\n" not in line
        assert all(word in line for word in words), line
        assert not list(Path().glob("*.safetensors"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("modell: {}\n", ["at the top level: unknown key 'modell'. Did you mean 'model'?"]),
            (
                "model: {architecture: cnn, objectiv: ce}\n",
                ["at model: unknown key 'objectiv'. Did you mean 'objective'?"],
            ),
            ("model: {neuron: {kind: lif, taw: 3}}\n", ["at model.neuron: unknown key 'taw'. Did you mean 'tau'?"]),
            ("model: [\n", ["not valid YAML"]),
            ("model: {training: {epochs: 0}}\n", ["model.training.epochs"]),
            ("model: {checkpoint: m.safetensors}\n", ["trained already"]),
            ("- a\n", ["must hold keys and values"]),
            ("model: 3\n", ["at model"]),
        ],
    )
    def test_in_a_file(self, text, words):
        Path("mine.yaml").write_text(text)
        line = refuse("train", "mine.yaml")
        assert all(word in line for word in ["mine.yaml", *words]), line


def test_a_recipe_is_trained_into_a_file_that_says_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--n-train", 200, "--epochs", 1, "--time-steps", 2, "--set", "options={width: 4, hidden: 16}"]
    result = call("train", "sr-digits", *options)
    assert result.exit_code == 0, result.stderr or result.exception
    found = load_checkpoint("sr-digits.safetensors")
    assert found.spec.options == {"width": 4, "hidden": 16}
    record = found.record
    assert record["objective"] == "sr(lam=0.05)"
    assert record["data"]["n_train"] == 200
    Path("again.yaml").write_text(
        yaml.safe_dump({"data": {"name": "digits", "n_train": 200}, "model": record["recipe"]})
    )
    result = call("train", "again.yaml", "--out", "again.safetensors")
    assert result.exit_code == 0, result.stderr or result.exception
    again = load_checkpoint("again.safetensors")
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
