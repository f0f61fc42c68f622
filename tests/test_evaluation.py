"""A benchmark's figures are those of its rows, and its rows are what attacks and models really do."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_benchmark import PLAIN, QCFS, RECIPE, Row, results, samples, tiny, write_npz

from robustsnn.attacks import FGSM, PGD, SignNoise, UniformNoise
from robustsnn.checkpoint import load_checkpoint
from robustsnn.conversion import convert
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation import BenchmarkConfig, benchmark, main_job, run_benchmark
from robustsnn.evaluation.measurement import Job, gradient_key, jobs_of
from robustsnn.evaluation.overrides import with_data, with_epochs, with_seed
from robustsnn.gradients import BPTR, BPTT
from robustsnn.report.html import write_report
from robustsnn.report.loading import load_examples, load_results

Z = 1.959963984540054
EPS = (8 / 255, 24 / 255)


@pytest.fixture(scope="module")
def config() -> BenchmarkConfig:
    return tiny(PLAIN, QCFS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config: BenchmarkConfig) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    run_benchmark(config, folder)
    return folder


def wilson(count: int, n: int) -> dict[str, float]:
    p = count / n
    centre, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)
    return {"value": p, "low": max(low, 0.0), "high": min(high, 1.0), "count": count, "n": n, "level": 0.95}


def close(figure: dict[str, Any], expected: dict[str, Any]) -> bool:
    return figure == pytest.approx(expected, abs=1e-12)


def select(rows: list[Row], **wanted: Any) -> list[Row]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda row: row["image"])


class TestRows:
    def test_one_row_for_each_image_and_measurement(self, run, config):
        rows = samples(run)
        keys = [(r["image"], r["model"], r["attack"], r["rule"], r["eps"]) for r in rows]
        measured = [("clean", "", 0.0)]
        measured += [(noise, "", eps) for noise in ("Uniform", "sign") for eps in EPS]
        measured += itertools.product(("FGSM", "PGD-2"), ("BPTT", "BPTR"), EPS)
        expected = {(i, m, *job) for i in range(40) for m in ("plain", "qcfs") for job in measured}
        assert len(keys) == len(expected) == 40 * 2 * 13
        assert set(keys) == expected

    @pytest.mark.parametrize(
        ("attack", "rule", "build"),
        [
            ("clean", "", None),
            ("Uniform", "", lambda m, eps: UniformNoise(m, eps)),
            ("sign", "", lambda m, eps: SignNoise(m, eps)),
            ("FGSM", "BPTR", lambda m, eps: FGSM(m.through(BPTR()), eps)),
            ("PGD-2", "BPTT", lambda m, eps: PGD(m.through(BPTT()), eps, steps=2)),
        ],
    )
    @pytest.mark.parametrize("model", ["plain", "qcfs"])
    def test_rows_are_what_the_attack_does_to_all_images_at_once(self, run, model, attack, rule, build):
        network = load_checkpoint(run / "models" / f"{model}.safetensors").model
        snn = network if model == "plain" else convert(network, "qcfs", 2)
        images, labels = load("digits").test.batch(slice(40))
        for eps in EPS if build else (0.0,):
            x = build(snn, eps)(images, labels) if build else images
            rows = select(samples(run), model=model, attack=attack, rule=rule, eps=eps)
            predicted = snn.reference(x).argmax(1)
            with torch.no_grad():
                claimed = snn(x).argmax(1) != labels
            assert [r["label"] for r in rows] == labels.tolist()
            assert [r["predicted"] for r in rows] == predicted.tolist()
            assert [r["correct"] for r in rows] == (predicted == labels).tolist()
            assert [r["claimed"] for r in rows] == claimed.tolist()
            assert all(r["legal"] and r["norm"] == "Linf" for r in rows)
            delta = (x - images).flatten(1)
            assert [r["linf"] for r in rows] == pytest.approx(delta.abs().amax(1).tolist())
            assert [r["l2"] for r in rows] == pytest.approx(delta.pow(2).sum(1).sqrt().tolist(), rel=1e-5)

    def test_the_models_learnt_and_the_attacks_work(self, run):
        """Or else the figures below would be compared on rows that are all alike."""
        rows = samples(run)
        for model in ("plain", "qcfs"):
            clean = sum(r["correct"] for r in select(rows, model=model, attack="clean"))
            pgd = sum(r["correct"] for r in select(rows, model=model, attack="PGD-2", rule="BPTR", eps=EPS[1]))
            assert 40 > clean > 20 > pgd


class TestFigures:
    def test_clean_rate(self, run):
        for model in results(run)["models"]:
            clean = select(samples(run), model=model["name"], attack="clean")
            assert close(model["clean"], wilson(sum(r["correct"] for r in clean), 40))

    def test_attack_entries(self, run, config):
        rows = samples(run)
        for model in results(run)["models"]:
            right = [r["correct"] for r in select(rows, model=model["name"], attack="clean")]
            assert len(model["attacks"]) == 12
            for entry in model["attacks"]:
                rule = entry["rule"] or ""
                own = select(rows, model=model["name"], attack=entry["title"], rule=rule, eps=entry["eps"])
                assert len(own) == 40
                assert close(entry["accuracy"], wilson(sum(r["correct"] for r in own), 40))
                fooled = sum(was and not r["correct"] for was, r in zip(right, own))
                assert close(entry["success"], wilson(fooled, sum(right)))
                assert entry["verified"] == fooled
                assert entry["claimed"] == sum(was and r["claimed"] for was, r in zip(right, own))
                assert entry["illegal"] == 0
                assert entry["mean_linf"] == pytest.approx(np.mean([r["linf"] for was, r in zip(right, own) if was]))
                assert entry["mean_l2"] == pytest.approx(np.mean([r["l2"] for was, r in zip(right, own) if was]))
                assert entry["family"] == ("adversarial" if rule else "noise")
                assert entry["settings"] == ({"steps": 2} if entry["attack"] == "pgd" else {})
                assert entry["seconds"] > 0

    def test_gap_is_between_the_strongest_noise_and_the_worst_case_of_every_image(self, run):
        rows = samples(run)
        stricter = False
        for model in results(run)["models"]:
            assert [entry["eps"] for entry in model["gap"]] == list(EPS)
            for entry in model["gap"]:
                eps, name = entry["eps"], model["name"]
                noises = {a: select(rows, model=name, attack=a, eps=eps) for a in ("Uniform", "sign")}
                left = {a: sum(r["correct"] for r in own) for a, own in noises.items()}
                assert left[entry["random_attack"]] == min(left.values())
                assert close(entry["random"], wilson(min(left.values()), 40))
                worst = [
                    all(
                        r["correct"]
                        for r in rows
                        if r["model"] == name and r["rule"] and r["eps"] == eps and i == r["image"]
                    )
                    for i in range(40)
                ]
                assert close(entry["adversarial"], wilson(sum(worst), 40))
                noisy = [r["correct"] for r in noises[entry["random_attack"]]]
                n10 = sum(a and not b for a, b in zip(noisy, worst))
                n01 = sum(b and not a for a, b in zip(noisy, worst))
                p10, p01 = (n10 + 1) / 42, (n01 + 1) / 42
                half = Z * math.sqrt((p10 + p01 - (p10 - p01) ** 2) / 42)
                assert (entry["gap"]["n10"], entry["gap"]["n01"], entry["gap"]["n"]) == (n10, n01, 40)
                assert entry["gap"]["value"] == pytest.approx((n10 - n01) / 40)
                assert entry["gap"]["low"] == pytest.approx(max(-1, p10 - p01 - half))
                assert entry["gap"]["high"] == pytest.approx(min(1, p10 - p01 + half))
                alone = [e["accuracy"]["count"] for e in model["attacks"] if e["rule"] and e["eps"] == eps]
                assert sum(worst) <= min(alone)
                stricter |= sum(worst) < min(alone)
        assert stricter, "the worst case never differs from the strongest attack, so this test tells them not apart"

    def test_gradient_figures_are_those_of_their_rows(self, run):
        rows = samples(run, "gradients.parquet")
        assert len({(r["image"], r["model"], r["rule"]) for r in rows}) == len(rows) == 8 * 2 * 2
        for model, i in itertools.product(results(run)["models"], range(2)):
            study = model["gradients"][i]
            own = select(rows, model=model["name"], rule=study["rule"])
            l1, l2 = (np.array([r[key] for r in own]) for key in ("l1", "l2"))
            zeros = np.array([1 - r["nonzero"] / 64 for r in own])
            assert study["rule"] == ("BPTT", "BPTR")[i]
            assert study["n"] == 8
            assert study["l1"]["mean"] == pytest.approx(l1.mean())
            assert study["l2"]["median"] == pytest.approx(np.median(l2))
            assert study["zero_share"]["mean"] == pytest.approx(zeros.mean())
            assert study["all_zero"]["count"] == sum(l2 == 0) < 8
            assert study["values"]["l1"] == l1.tolist()
            for k, ratio in enumerate(study["ratio"]):
                adversarial, random = ([r[f"{kind}_{k}"] for r in own] for kind in ("adversarial", "random"))
                assert ratio["eps"] == (2 / 255, 8 / 255)[k]
                assert ratio["measured"] == pytest.approx(np.sum(adversarial) / np.sum(random))
                assert ratio["measured_interval"][0] <= ratio["measured"] <= ratio["measured_interval"][1]
                assert ratio["predicted"]["median"] == pytest.approx(np.median(3 * l1[l2 > 0] ** 2 / l2[l2 > 0] ** 2))
                assert ratio["upper_bound"]["mean"] == pytest.approx(3 * 64 * (1 - zeros).mean())

    def test_gradient_rows_are_the_gradient_of_the_rule(self, run):
        model = load_checkpoint(run / "models" / "plain.safetensors").model
        images, labels = load("digits").test.batch(slice(8))
        for rule, name in ((BPTT(), "BPTT"), (BPTR(), "BPTR")):
            x = images.clone().requires_grad_()
            f = model.through(rule)(x).softmax(1)[range(8), labels]
            (g,) = torch.autograd.grad(f.sum(), x)
            z = model.through(rule)(x)
            rivals = z - 1e6 * torch.nn.functional.one_hot(labels, 10)
            (margin,) = torch.autograd.grad((z[range(8), labels] - rivals.amax(1)).sum(), x)
            own = select(samples(run, "gradients.parquet"), model="plain", rule=name)
            assert [r["l1"] for r in own] == pytest.approx(g.abs().sum((1, 2, 3)).tolist(), rel=1e-4)
            assert [r["margin_l1"] for r in own] == pytest.approx(margin.abs().sum((1, 2, 3)).tolist(), rel=1e-4)
            assert [r["probability"] for r in own] == pytest.approx(f.tolist(), rel=1e-5)

    def test_conversion_curve(self, run):
        (curve,) = results(run)["conversions"]
        ann = load_checkpoint(run / "models" / "qcfs.safetensors").model
        images, labels = load("digits").test.batch(slice(40))

        def right(model: torch.nn.Module) -> int:
            with torch.no_grad():
                return int((model(images).argmax(1) == labels).sum())

        assert (curve["model"], curve["title"], curve["method"]) == ("qcfs", "Converted SNN", "qcfs")
        assert curve["quantised"]["count"] == right(ann)
        for point, steps in zip(curve["over_time"], (1, 2, 4), strict=True):
            assert point["time_steps"] == steps
            assert point["accuracy"]["count"] == right(convert(ann, "qcfs", steps))
            assert point["ms_per_image"] > 0
        assert curve["over_time"][1]["accuracy"] == results(run)["models"][1]["clean"]
        for module in ann.modules():
            if hasattr(module, "levels"):
                module.levels = 10**6
        assert curve["ann"]["count"] == right(ann)

    def test_examples_are_of_the_run(self, run):
        examples = load_examples(run)
        assert examples is not None
        images, labels = load("digits").test.batch(slice(40))
        rows = samples(run)
        for model in ("plain", "qcfs"):
            clean, noise, adversarial = (examples[f"{model}/{kind}"] for kind in ("clean", "noise", "adversarial"))
            eps = float(examples[f"{model}/eps"])
            assert eps == EPS[0], "the second largest"
            numbers = [int((images == torch.from_numpy(x)).flatten(1).all(1).nonzero()[0]) for x in clean]
            assert len(set(labels[numbers].tolist())) == len(numbers) == 6
            for kind, x, attack, rule in (("noise", noise, "sign", ""), ("adversarial", adversarial, "PGD-2", "BPTT")):
                own = select(rows, model=model, attack=attack, rule=rule, eps=eps)
                assert [own[i]["predicted"] for i in numbers] == examples[f"{model}/predicted_{kind}"].tolist()
                changes = np.abs(x - clean).reshape(len(numbers), -1).max(1)
                assert changes == pytest.approx([own[i]["linf"] for i in numbers], abs=1e-6)


class TestFolder:
    def test_the_report_reads_it(self, run):
        loaded = load_results(run)
        raw = results(run)
        assert loaded["complete"] is True
        assert raw["schema_version"] == 1
        assert raw["warnings"] == loaded["warnings"]
        assert [m["name"] for m in loaded["models"]] == ["plain", "qcfs"]
        assert [m["kind"] for m in loaded["models"]] == ["snn", "converted"]
        assert loaded["models"][0]["training"]["epochs"] == 2
        assert (loaded["dataset"]["n_test"], loaded["dataset"]["n_evaluated"]) == (360, 40)
        page = write_report(run).read_text()
        for words in ("Plain SNN", "Converted SNN", "PGD-2", "BPTR"):
            assert words in page

    def test_environment_and_recipe_are_recorded(self, run, config):
        raw = results(run)
        assert raw["environment"]["torch"] == torch.__version__
        assert raw["environment"]["device"].startswith("cpu")
        assert (
            BenchmarkConfig.model_validate(raw["config"] | {"data": raw["config"]["data"] | {"root": None}}) == config
        )
        record = raw["models"][0]["training"]
        assert record["training"]["lr"] == 0.01
        assert record["validation_accuracy"] > 0.3

    def test_running_again_measures_nothing_and_changes_no_row(self, run, config, monkeypatch):
        before, rows = results(run), (run / "samples.parquet").read_bytes()
        monkeypatch.setattr(benchmark, "measure", None)
        monkeypatch.setattr(benchmark, "measure_gradients", None)
        run_benchmark(config, run)
        after = results(run)
        assert (run / "samples.parquet").read_bytes() == rows
        assert after["complete"]
        assert after["started"] == before["started"]
        assert after["seconds"] >= before["seconds"]
        assert after["models"] == before["models"]

    def test_own_images(self, tmp_path):
        file = write_npz(tmp_path / "squares.npz", class_names=np.array(["top", "middle", "bottom"]))
        own = with_data(tiny(PLAIN, eps=[0.1], gradients={"n_images": 0}), name="npz", root=str(file), n_test=200)
        folder = tmp_path / "deep" / "out"
        run_benchmark(own, folder)
        raw = results(folder)
        assert raw["dataset"] == {
            "name": "squares.npz",
            "n_train": 240,
            "n_test": 30,
            "n_evaluated": 30,
            "image_shape": [1, 8, 8],
            "num_classes": 3,
            "class_names": ["top", "middle", "bottom"],
        }
        assert len(samples(folder)) == 30 * (1 + 2 + 4)
        assert raw["models"][0]["clean"]["value"] > 0.5
        assert raw["models"][0]["gradients"] == []
        assert not (folder / "gradients.parquet").exists()
        assert str(tmp_path) not in (folder / "results.json").read_text(), "results tell where the data lie"
        load_results(folder)
        write_report(folder)

    def test_measures_in_l2(self, tmp_path):
        run_benchmark(tiny(eps=[1.0], norm="L2", rules=[{"name": "bptr"}], gradients={"n_images": 0}), tmp_path)
        rows = samples(tmp_path)
        assert {r["norm"] for r in rows} == {"L2"}
        lengths = [r["l2"] for r in rows if r["attack"] != "clean"]
        assert 0.9 < max(lengths) <= 1 + 1e-6
        assert max(r["linf"] for r in rows if r["attack"] == "Uniform") < 0.6

    def test_global_generators_are_left_alone(self, tmp_path, rng_untouched):
        run_benchmark(tiny(PLAIN, attacks=[], gradients={"n_images": 2}, eps=[0.1]), tmp_path)

    def test_checkpoints_are_measured_as_they_are(self, run, tmp_path):
        """An ANN's file is converted, a converted or spiking one is not; and no file is trained in place of one."""
        entries = [
            {"name": "a", "checkpoint": str(run / "models" / "plain.safetensors")},
            {"name": "b", "checkpoint": str(run / "models" / "qcfs.safetensors"), "time_steps": 2, "conversion": {}},
        ]
        run_benchmark(tiny(*entries, noises=[], attacks=[], rules=[]), tmp_path / "out")
        raw = results(tmp_path / "out")
        assert [m["clean"] for m in raw["models"]] == [m["clean"] for m in results(run)["models"]]
        assert [m["title"] for m in raw["models"]] == ["a", "b"]
        assert not list((tmp_path / "out" / "models").iterdir())


class TestKeys:
    def test_every_batch_has_a_file_of_its_own(self):
        config = tiny(
            noises=[
                {"name": "sign", "title": "x/y"},
                {"name": "sign", "title": "x-y"},
                {"name": "sign", "title": "x y"},
            ],
            attacks=[
                {"name": "pgd", "title": "P" * 300},
                {"name": "pgd", "title": "P" * 299 + "Q"},
                {"name": "pgd", "title": "x-y"},
            ],
            rules=[{"name": "bptt", "title": "None"}, {"name": "bptr", "title": "none"}],
            eps=[0.1, 0.1 + 1e-12, 0.1000001],
        )
        jobs = [job for name in ("m", "m_x") for job in jobs_of(name, config)]
        keys = [job.key(batch) for job in jobs for batch in (0, 1, 10)]
        keys += [gradient_key(name, rule, 0) for name in ("m", "m_x") for rule in config.rules]
        assert len(jobs) == 2 * (1 + 3 * 3 + 3 * 3 * 2)
        assert len({key.lower() for key in keys}) == len(keys)
        assert all(len(key) < 150 and "/" not in key for key in keys)

    def test_keys_are_the_same_in_another_process(self):
        job = Job("plain", tiny().attacks[0], tiny().rules[0], 8 / 255)
        assert job.key(3) == "plain_FGSM_BPTT_0.03137_3_ec0229e842c2"


class TestOverrides:
    def test_seed_and_epochs_reach_every_model(self):
        config = with_epochs(with_seed(tiny(PLAIN, QCFS), 7), 9)
        assert config.seed == 7
        assert [(m.training.seed, m.training.epochs) for m in config.models] == [(7, 9), (7, 9)]
        assert config.models[0].training.lr == 0.01

    def test_epochs_within_the_warm_up_are_refused(self):
        warm = PLAIN | {"training": RECIPE["training"] | {"epochs": 5, "warmup_epochs": 2}}
        with pytest.raises(RobustSNNError, match="warmup_epochs"):
            with_epochs(tiny(warm), 1)

    def test_data_keep_what_is_not_given(self):
        config = with_data(tiny(), name=None, root="x", download=None, n_test=3)
        assert config.data.model_dump() == {
            "name": "digits",
            "root": "x",
            "download": False,
            "n_train": None,
            "n_test": 3,
        }

    @pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "npz"])
    def test_main_job_of_every_data_set_is_sound(self, dataset):
        config = main_job(dataset)
        benchmark.check_names(config)
        assert config.data.name == dataset
        assert [m.name for m in config.models] == ["plain", "sr", "qcfs"]
        assert json.loads(config.model_dump_json())["data"]["name"] == dataset
