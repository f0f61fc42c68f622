"""The suite of defenses: its figures from the runs behind it, resuming, early errors, what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_benchmark import Stop, write_npz
from typer.testing import CliRunner

from robustsnn.cli import app
from robustsnn.datasets import load
from robustsnn.errors import DivergedError, RobustSNNError
from robustsnn.evaluation import defense_suite, preparation
from robustsnn.evaluation.crossed import pooled_difference, pooled_rate
from robustsnn.evaluation.defense_suite import run_suite
from robustsnn.evaluation.overrides import suite_with
from robustsnn.evaluation.parsing import merged, parse
from robustsnn.evaluation.suite import SuiteConfig, check_suite, read_suite, runs_of
from robustsnn.evaluation.suite_presets import build_suite
from robustsnn.report.defense_plots import family, suite_figures
from robustsnn.report.defenses import load_suite, markdown, print_suite, write_suite
from robustsnn.terminal import console

EPS = 16 / 255


def content(root: Path, **changes: Any) -> dict[str, Any]:
    """Three defenses and two seeds on thirty images of bright squares."""
    return {
        "seeds": [0, 1],
        "model": {
            "options": {"width": 4, "hidden": 16},
            "time_steps": 2,
            "neuron": {"kind": "lif", "v_threshold": 0.5},
            "training": {"epochs": 3, "batch_size": 32, "lr": 0.02},
        },
        "defenses": [
            {"name": "plain"},
            {"name": "sr-0.01", "title": "SR 0.01", "sweep": 0.01, "model": {"objective": "sr(lam=0.01)"}},
            {"name": "sr-0.1", "title": "SR 0.1", "sweep": 0.1, "model": {"objective": "sr(lam=0.1)"}},
        ],
        "benchmark": {
            "data": {"name": "npz", "root": str(root)},
            "noises": [{"name": "uniform"}, {"name": "sign"}],
            "attacks": [{"name": "fgsm", "title": "FGSM"}, {"name": "pgd", "title": "PGD", "params": {"steps": 2}}],
            "rules": [{"name": "bptt"}, {"name": "bptr"}],
            "eps": ["16/255"],
            "gradients": {"n_images": 8, "draws": 1},
            "checks": {"n_images": 0},
        },
    } | changes


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_npz(tmp_path_factory.mktemp("data") / "mine.npz")


@pytest.fixture(scope="module")
def config(data) -> SuiteConfig:
    return parse(SuiteConfig, content(data), "suite")


@pytest.fixture(scope="module")
def done(config, tmp_path_factory) -> Path:
    """A finished suite."""
    out = tmp_path_factory.mktemp("suite")
    run_suite(config, out)
    return out


def rows(done: Path, defense: str, attack: str, eps: float = EPS) -> np.ndarray:
    """Verdicts ``[seed, image]`` of an attack through its worst rule for each image, read from the runs themselves."""
    found = []
    for seed in (0, 1):
        table = pq.read_table(done / "runs" / defense / f"seed-{seed}" / "samples.parquet").to_pylist()
        standing: dict[int, bool] = {}
        for row in table:
            if row["attack"] == attack and abs(row["eps"] - eps) < 1e-9:
                standing[row["image"]] = standing.get(row["image"], True) and row["correct"]
        found.append([standing[image] for image in sorted(standing)])
    return np.array(found)


class TestResults:
    def test_are_those_of_the_runs_pooled_over_seeds(self, done):
        suite = load_suite(done)
        assert suite["complete"]
        assert [d["name"] for d in suite["defenses"]] == ["plain", "sr-0.01", "sr-0.1"]
        for defense in suite["defenses"]:
            name = defense["name"]
            assert defense["seeds"] == [0, 1]
            assert defense["clean"] == pooled_rate(rows(done, name, "clean", 0.0)).as_dict()
            (here,) = defense["at"]
            fgsm, pgd = rows(done, name, "FGSM"), rows(done, name, "PGD")
            assert here["attacks"]["FGSM"] == pooled_rate(fgsm).as_dict()
            assert here["attacks"]["PGD"] == pooled_rate(pgd).as_dict()
            assert here["worst"] == pooled_rate(fgsm & pgd).as_dict()
            noises = {kind: rows(done, name, kind) for kind in ("uniform", "sign")}
            noise = min(noises, key=lambda kind: noises[kind].mean())
            assert here["noise_name"] == noise
            assert here["gap"] == pooled_difference(noises[noise], fgsm & pgd).as_dict()
            plain = rows(done, "plain", "FGSM") & rows(done, "plain", "PGD")
            assert here["gain"] == (None if name == "plain" else pooled_difference(fgsm & pgd, plain).as_dict())
            assert here["worst"]["n"] == 30
        assert suite["defenses"][0]["clean"]["value"] > 0.4

    def test_gradients_and_times(self, done):
        suite = load_suite(done)
        for defense in suite["defenses"]:
            norms, seconds = [], []
            for seed in (0, 1):
                folder = done / "runs" / defense["name"] / f"seed-{seed}"
                table = pq.read_table(folder / "gradients.parquet").to_pylist()
                norms.append([row["l1"] for row in table if row["rule"] == "bptt"])
                seconds.append(json.loads((folder / "results.json").read_text())["models"][0]["training"]["seconds"])
            shown = next(g for g in defense["gradients"] if g["rule"] == "bptt")
            assert shown["l1"]["value"] == pytest.approx(np.mean(norms))
            assert defense["seconds"]["mean"] == pytest.approx(np.mean(seconds))
            assert defense["relative_time"]["n"] == 2
        assert suite["defenses"][0]["relative_time"]["mean"] == pytest.approx(1)

    def test_every_seed_is_a_training_of_its_own(self, done):
        for defense in ("plain", "sr-0.1"):
            recipes = [
                json.loads((done / "runs" / defense / f"seed-{seed}" / "config.json").read_text())["models"][0]
                for seed in (0, 1)
            ]
            assert [recipe["training"]["seed"] for recipe in recipes] == [0, 1]
            recipes[1]["training"]["seed"] = 0
            assert recipes[0] == recipes[1]

    def test_say_no_path_of_the_machine(self, done, data):
        assert str(data) not in (done / "defenses.json").read_text()


class TestResume:
    @pytest.fixture
    def counted(self, monkeypatch):
        trained: list[str] = []
        whole = preparation.train_model

        def train_model(config, *args):
            done = whole(config, *args)
            trained.append(f"{config.name}-{config.training.seed}")
            return done

        monkeypatch.setattr(preparation, "train_model", train_model)
        return trained

    def test_an_interrupted_suite_goes_on_and_a_defense_can_be_added(self, config, data, done, tmp_path, counted):
        with pytest.raises(KeyboardInterrupt):
            run_suite(config, tmp_path, Stop(before="3/6 train sr-0.1"))
        assert counted == ["plain-0", "sr-0.01-0"]
        half = load_suite(tmp_path)
        assert not half["complete"]
        assert [len(d["seeds"]) for d in half["defenses"]] == [1, 1, 0]
        assert "This suite is not complete" in printed(half)
        assert "SR 0.1: no finished run" in markdown(half)

        fewer = parse(SuiteConfig, content(data, seeds=[0], defenses=content(data)["defenses"][:2]), "suite")
        assert run_suite(fewer, tmp_path)["complete"]
        assert counted == ["plain-0", "sr-0.01-0"]
        run_suite(config, tmp_path)
        assert sorted(counted) == sorted(f"{d.name}-{seed}" for d in config.defenses for seed in (0, 1))
        ours, theirs = (without_times(load_suite(folder)) for folder in (tmp_path, done))
        assert ours == theirs

    def test_a_training_that_diverges_is_noted_and_the_rest_goes_on(self, data, tmp_path, monkeypatch):
        config = parse(SuiteConfig, content(data, seeds=[0], defenses=content(data)["defenses"][:2]), "suite")
        whole = preparation.train

        def train(model, images, objective, *args):
            if "SR" in repr(objective):
                raise DivergedError("training diverged: the loss is nan")
            return whole(model, images, objective, *args)

        monkeypatch.setattr(preparation, "train", train)
        suite = run_suite(config, tmp_path)
        assert suite["complete"]
        assert suite["defenses"][1]["failed"] == [{"seed": 0, "error": "training diverged: the loss is nan"}]
        assert "SR 0.01, seed 0: training diverged" in printed(suite)
        assert "SR 0.01" in write_suite(tmp_path).read_text()

    def test_other_trouble_stops_the_suite(self, config, tmp_path, monkeypatch):
        def fail(*args):
            raise RobustSNNError("cannot write: no space left")

        monkeypatch.setattr(defense_suite, "run_benchmark", fail)
        with pytest.raises(RobustSNNError, match="defense plain, seed 0: cannot write"):
            run_suite(config, tmp_path)


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"defenses": [{"name": "plain"}, {"name": "x", "model": {"objective": "magic"}}]},
                ["defense x", "'magic'"],
            ),
            (
                {"defenses": [{"name": "plain"}, {"name": "x", "model": {"objectiv": "ce"}}]},
                ["defense x", "Did you mean 'objective'?"],
            ),
            (
                {"defenses": [{"name": "plain"}, {"name": "x", "model": {"objective": "at() + trades()"}}]},
                ["defense x", "contradictory"],
            ),
            ({"defenses": [{"name": "plain"}, {"name": "plain"}]}, ["none twice"]),
            ({"defenses": [{"name": "sr"}]}, ["the reference 'plain' is none of the defenses (sr)"]),
            ({"defenses": []}, ["at least one defense"]),
            ({"defenses": [{"name": "plain", "sweep": -1}]}, ["sweep", "greater than 0"]),
            ({"seeds": []}, ["at least one seed"]),
            ({"seeds": [1, 1]}, ["none twice"]),
            ({"seeds": [-1]}, ["seeds.0"]),
            ({"seedz": [1]}, ["unknown key 'seedz'. Did you mean 'seeds'?"]),
            ({"benchmark": {"models": []}}, ["models cannot be given here"]),
            ({"benchmark": {"attcks": []}}, ["Did you mean 'attacks'?"]),
            ({"model": {"architecture": "cmn"}}, ["defense plain", "unknown model 'cmn'"]),
        ],
    )
    def test_are_told_before_anything_is_trained(self, data, tmp_path, monkeypatch, changes, words):
        monkeypatch.setattr(preparation, "train", lambda *args: pytest.fail("training began"))
        with pytest.raises(RobustSNNError) as caught:
            run_suite(parse(SuiteConfig, content(data, **changes), "suite"), tmp_path / "out")
        assert all(word in str(caught.value) for word in words), caught.value
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_another_configuration(self, data, done):
        other = merged(content(data), {"model": {"time_steps": 3}})
        with pytest.raises(RobustSNNError, match=r"defense plain, seed 0: .* another configuration"):
            run_suite(parse(SuiteConfig, other, "suite"), done)

    def test_a_damaged_run_is_named(self, config, done, tmp_path):
        broken = tmp_path / "runs" / "plain" / "seed-0"
        broken.mkdir(parents=True)
        (broken / "results.json").write_text("{}")
        with pytest.raises(RobustSNNError, match="seed-0 is damaged"):
            defense_suite.suite_results(config, tmp_path, load("npz", config.benchmark["data"]["root"]))


class TestPresets:
    @pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10", "npz"])
    def test_hold_what_the_field_compares(self, name):
        suite = build_suite("defenses", name)
        names = [defense.name for defense in suite.defenses]
        for wanted in ("plain", "tet", "at-2", "at-8", "trades", "mart", "rat", "hire", "dlif", "stog", "feel", "tgo"):
            assert wanted in names
        assert {"mpd-sgr", "input-gradient"} <= set(names)
        assert any(name.startswith("sr+at") for name in names)
        weights = [defense.sweep for defense in suite.defenses if defense.sweep]
        assert min(weights) == 0.0005
        assert max(weights) >= 0.01
        assert len(list(runs_of(suite))) == 3 * len(names)
        assert {"FGSM", "PGD-20", "ensemble"} == {attack["title"] for attack in suite.benchmark["attacks"]}

    def test_every_defense_can_be_trained(self):
        check_suite(build_suite("defenses"), load("digits"))

    def test_options_change_them(self):
        changed = suite_with(
            "defenses",
            data={"name": "digits", "n_test": 50, "root": None},
            seeds=2,
            first_seed=5,
            rows=["sr-0.3", "at-8"],
            lams=[0.3],
            eps=["8/255"],
            epochs=2,
            device="cpu",
        )
        assert changed.seeds == (5, 6)
        assert [defense.name for defense in changed.defenses] == ["plain", "sr-0.3", "at-8"]
        run = next(runs_of(changed))
        assert run.config.eps == (8 / 255,)
        assert run.config.data.n_test == 50
        assert run.config.models[0].training.epochs == 2

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--suite", "defense"], ["unknown suite 'defense'. Did you mean 'defenses'?"]),
            (["--suite", "defenses", "--defense", "trade"], ["Did you mean 'trades'?"]),
            (["--suite", "defenses", "--lam", "-1"], ["above 0"]),
            (["--suite", "defenses", "--eps", "far"], ["8/255"]),
            (["--seeds", 3], ["--seeds belongs to a suite"]),
            (["--suite", "defenses", "--config", "none.yaml"], ["none.yaml"]),
        ],
    )
    def test_bad_options(self, arguments, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
        assert result.exit_code == 2, result.exception
        assert all(word in result.stderr for word in words), result.stderr


class TestReport:
    def test_table_page_and_plots(self, done):
        suite = load_suite(done)
        page = write_suite(done).read_text()
        text, shown = markdown(suite), printed(suite)
        for defense in suite["defenses"]:
            here = defense["at"][0]
            for rate in (defense["clean"], here["noise"], here["worst"], *here["attacks"].values()):
                value = f"{100 * rate['value']:.1f}"
                interval = f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
                line = next(line for line in text.splitlines() if line.startswith(f"| {defense['title']} |"))
                assert f"{value} {interval}" in line
                assert value in shown
                assert interval in page
        assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
        assert {path.name for path in (done / "plots").iterdir()} == {
            f"{name}.{kind}" for name in ("defenses-16-255", "tradeoff-16-255", "sweep") for kind in ("png", "svg")
        }
        assert all(path.stat().st_size > 1000 for path in (done / "plots").iterdir())

    def test_the_plots_show_the_numbers(self, done):
        suite = load_suite(done)
        found = dict(suite_figures(suite))
        left, right = found["sweep"].axes
        drawn = {line.get_label(): line for line in left.get_lines()}
        expected = [100 * d["clean"]["value"] for d in suite["defenses"][1:]]
        assert list(drawn["clean"].get_xdata()) == [0.01, 0.1]
        assert list(drawn["clean"].get_ydata()) == pytest.approx(expected)
        norms = [d["gradients"][0]["l1"]["value"] for d in suite["defenses"][1:]]
        assert list(right.get_lines()[0].get_ydata()) == pytest.approx(norms)
        labels = [label.get_text() for label in found["defenses-16-255"].axes[0].get_yticklabels()]
        assert labels == ["plain", "SR 0.01", "SR 0.1"]

    def test_families(self):
        for text, name in (
            ("SR(lam=1)", "SR"),
            ("AT(eps=1)", "adversarial examples in training"),
            ("SR(lam=1) + AT(eps=1)", "both"),
            ("CrossEntropy()", "other"),
        ):
            assert family({"objective": text})[0] == name

    def test_of_a_file_that_is_none(self, tmp_path):
        for text in ("{", "{}", "[]"):
            (tmp_path / "defenses.json").write_text(text)
            with pytest.raises(RobustSNNError):
                load_suite(tmp_path)


def test_from_the_command_line(config, data, done, tmp_path, monkeypatch):
    """Printed, edited, given back; a finished suite is only shown again."""
    monkeypatch.setattr(console, "_width", 200)
    shown = CliRunner().invoke(app, ["benchmark", "--suite", "defenses", "--show-config"]).stdout
    (tmp_path / "same.yaml").write_text(shown)
    assert read_suite(tmp_path / "same.yaml") == build_suite("defenses")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content(data)))
    result = CliRunner().invoke(
        app, ["benchmark", "--suite", "defenses", "--config", str(tmp_path / "mine.yaml"), "--out", str(done)]
    )
    assert result.exit_code == 0, result.stderr or result.exception
    assert "Defenses, accuracy (%) at ε = 16/255" in result.stdout
    assert "train plain" not in result.stdout
    again = CliRunner().invoke(app, ["report", str(done)])
    assert again.stdout.split("Defenses")[1] in result.stdout


def printed(suite: dict[str, Any]) -> str:
    with console.capture() as captured:
        print_suite(suite, console)
    return " ".join(captured.get().split())


def without_times(suite: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in suite.items() if key != "written"}
    timed = ("seconds", "relative_time")
    return kept | {"defenses": [{k: v for k, v in d.items() if k not in timed} for d in suite["defenses"]]}
