"""An interrupted benchmark goes on where it stopped, to the same rows; a folder belongs to one run and one data set."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_benchmark import PLAIN, POISSON, RECIPE, Stop, results, samples, tiny, write_npz

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation import BenchmarkConfig, benchmark, preparation, run_benchmark
from robustsnn.evaluation.overrides import with_data
from robustsnn.evaluation.store import delete_run

SMALL = {
    "attacks": [{"name": "pgd", "params": {"steps": 2}}],
    "noises": [{"name": "sign"}],
    "rules": [{"name": "bptr"}],
    "gradients": {"n_images": 8, "draws": 1, "eps": [0.01]},
}
BATCHES = 3 * (1 + 2 + 2)
"""Of one model: 40 images in batches of 16, clean, and one noise and one attack at two radii."""


@pytest.fixture(scope="module")
def config() -> BenchmarkConfig:
    return tiny(PLAIN, POISSON, **SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, config: BenchmarkConfig) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    run_benchmark(config, folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


class Counted:
    """Counts the calls of a function of the benchmark, and interrupts one of them at its end, with its work undone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, module: Any = benchmark) -> None:
        self.calls = 0
        self.stop: int | None = None
        self.function = getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        result = self.function(*args, **kwargs)
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return result


def timeless(tree: Any) -> Any:
    """Results without what the clock says."""
    if isinstance(tree, dict):
        clock = ("seconds", "started", "finished", "ms_per_image")
        return {key: timeless(value) for key, value in tree.items() if key not in clock}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


def assert_same(folder: Path, whole: Path) -> None:
    assert samples(folder) == samples(whole)
    assert samples(folder, "gradients.parquet") == samples(whole, "gradients.parquet")
    assert timeless(results(folder)) == timeless(results(whole))
    with np.load(folder / "examples.npz") as a, np.load(whole / "examples.npz") as b:
        assert sorted(a.files) == sorted(b.files)
        assert all(np.array_equal(a[key], b[key]) for key in a.files)


class TestInterrupted:
    def test_at_every_kind_of_place_in_turn(self, config, whole, tmp_path, monkeypatch):
        """In training (twice), between training and attacks, in attacks, between models, in the Poisson model."""
        measured, studied = Counted(monkeypatch, "measure"), Counted(monkeypatch, "measure_gradients")
        folder = tmp_path / "out"
        stops = [
            (Stop(after=10), 0),
            (Stop(after=60), 0),
            (Stop(before="attack plain"), 0),
            (Stop(after=2 * 4), 4),  # two reports a batch
            (Stop(after=2 * 5 + 1), 9),  # between a report and its batch
            (Stop(before="train poisson"), BATCHES),
            (Stop(before="attack poisson"), BATCHES),
            (Stop(after=2 * 7), BATCHES + 7),  # after the one of the model before, which is done
        ]
        for stop, done in stops:
            with pytest.raises(KeyboardInterrupt):
                run_benchmark(config, folder, stop)
            assert measured.calls == done
            assert not (folder / "samples.parquet").exists()
        assert len(results(folder)["models"]) == 1
        assert results(folder)["complete"] is False
        run_benchmark(config, folder)
        assert measured.calls == 2 * BATCHES, "a batch was measured twice, or never"
        assert studied.calls == 2
        assert_same(folder, whole)

    @pytest.mark.parametrize("number", [1, BATCHES, BATCHES + 8])
    def test_in_the_middle_of_a_batch_only_that_one_is_lost(self, config, whole, tmp_path, monkeypatch, number):
        for name in ("models", "training"):
            shutil.copytree(whole / name, tmp_path / "out" / name)
        measured = Counted(monkeypatch, "measure")
        measured.stop = number
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, tmp_path / "out")
        run_benchmark(config, tmp_path / "out")
        assert measured.calls == 2 * BATCHES + 1
        assert_same(tmp_path / "out", whole)

    def test_in_the_gradient_study(self, config, whole, copy, monkeypatch):
        for file in (copy / "work").glob("poisson_bptr_0_*"):
            file.unlink()
        (copy / "results.json").unlink()
        measured, studied = Counted(monkeypatch, "measure"), Counted(monkeypatch, "measure_gradients")
        studied.stop = 1
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, copy)
        run_benchmark(config, copy)
        assert (measured.calls, studied.calls) == (0, 2)
        assert_same(copy, whole)

    def test_training_is_not_done_again(self, config, tmp_path, monkeypatch):
        trained = Counted(monkeypatch, "train", preparation)
        for stop in (Stop(before="attack plain"), Stop(after=2), Stop(after=9)):
            with pytest.raises(KeyboardInterrupt):
                run_benchmark(config, tmp_path, stop)
        assert trained.calls == 1

    def test_seconds_add_up(self, config, copy):
        content = results(copy)
        (copy / "results.json").write_text(json.dumps(content | {"complete": False, "seconds": 1000.0}))
        run_benchmark(config, copy)
        assert 1000 < results(copy)["seconds"] < 1100
        assert results(copy)["started"] == content["started"]


class TestBatchSize:
    def test_rows_of_a_deterministic_model_do_not_depend_on_it(self, tmp_path):
        folders = [tmp_path / "7", tmp_path / "40"]
        for folder in folders:
            run_benchmark(tiny(PLAIN, **SMALL, batch_size=int(folder.name)), folder)

        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return row["model"], row["attack"], row["rule"], row["eps"], row["image"]

        few, many = (sorted(samples(folder), key=key) for folder in folders)
        assert len(few) == len(many) == 40 * 5
        assert len({row["predicted"] for row in few}) > 3
        for a, b in zip(few, many):
            assert (a.pop("linf"), a.pop("l2")) == pytest.approx((b.pop("linf"), b.pop("l2")), rel=1e-6)
            for mean_over_the_batch in ("forwards", "backwards", "zero_gradients", "bad_gradients"):
                assert a.pop(mean_over_the_batch) >= 0
                b.pop(mean_over_the_batch)
            assert a == b
        a, b = (results(folder)["models"][0] for folder in folders)
        assert (a["clean"], a["gap"]) == (b["clean"], b["gap"])


class TestFolderOfAnotherRun:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 1}, "seed"),
            ({"batch_size": 8}, "batch_size"),
            ({"eps": [0.1]}, "eps"),
            ({"attacks": [{"name": "pgd", "params": {"steps": 3}}]}, r"attacks\.0\.params\.steps"),
            ({"models": [PLAIN, POISSON | {"time_steps": 3}]}, r"models\.1\.time_steps"),
            (
                {"models": [PLAIN | {"training": RECIPE["training"] | {"lr": 0.02}}, POISSON]},
                r"models\.0\.training\.lr",
            ),
        ],
    )
    def test_is_refused_and_says_what_differs(self, whole, monkeypatch, change, named):
        trained = Counted(monkeypatch, "train", preparation)
        before = samples(whole)
        with pytest.raises(RobustSNNError, match=rf"\(other {named}\).*--fresh"):
            run_benchmark(tiny(**({"models": [PLAIN, POISSON]} | SMALL | change)), whole)
        assert samples(whole) == before
        assert trained.calls == 0

    def test_other_data_under_the_same_name_are_refused(self, tmp_path):
        file = write_npz(tmp_path / "own.npz")
        config = with_data(tiny(**SMALL), name="npz", root=str(file), n_test=None)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, tmp_path / "out", Stop(after=1))
        with np.load(file) as arrays:
            labels = arrays["y_test"].copy()
        labels[-1] = (labels[-1] + 1) % 3
        write_npz(file, y_test=labels)
        with pytest.raises(RobustSNNError, match=r"\(other data\.content\)"):
            run_benchmark(config, tmp_path / "out", Stop(after=1))

    def test_another_checkpoint_under_the_same_name_is_refused(self, whole, tmp_path):
        file = Path(shutil.copy(whole / "models" / "plain.safetensors", tmp_path))
        config = tiny({"name": "m", "checkpoint": str(file)}, **SMALL)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, tmp_path / "out", Stop(after=3))
        found = load_checkpoint(file)
        save_checkpoint(file, found.model, found.spec, {"another": "record"})  # of the same model: goes on
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, tmp_path / "out", Stop(after=3))
        with torch.no_grad():
            next(found.model.parameters()).view(-1)[0] += 1
        save_checkpoint(file, found.model, found.spec, found.record)
        with pytest.raises(RobustSNNError, match=r"\(other checkpoints\.m\)"):
            run_benchmark(config, tmp_path / "out", Stop(after=3))

    @pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"tool": "another"}', "\x00"])
    def test_a_config_json_of_somebody_else_is_refused(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RobustSNNError, match="not written by a robustsnn run"):
            run_benchmark(tiny(), tmp_path, Stop(after=1))
        assert (tmp_path / "config.json").read_text() == text

    def test_another_device_and_place_of_the_data_are_the_same_run(self, config, copy, monkeypatch):
        measured = Counted(monkeypatch, "measure")
        run_benchmark(with_data(config, root="elsewhere"), copy)
        assert measured.calls == 0


class TestDamage:
    @pytest.mark.parametrize("kept", [0, 100, -10])
    def test_a_damaged_batch_is_named_and_can_be_measured_again(self, config, whole, copy, kept):
        file = sorted((copy / "work").glob("plain_pgd_bptr_0.0941*"))[1]
        content = file.read_bytes()
        file.write_bytes(content[:kept] if kept >= 0 else b"x" * 10 + content[10:kept])
        with pytest.raises(RobustSNNError, match=f"{file.name} is damaged; delete it"):
            run_benchmark(config, copy)
        file.unlink()
        run_benchmark(config, copy)
        assert_same(copy, whole)

    def test_a_damaged_model_is_named(self, config, copy):
        (copy / "models" / "poisson.safetensors").write_bytes(b"no model")
        with pytest.raises(RobustSNNError, match=r"poisson\.safetensors"):
            run_benchmark(config, copy)

    def test_damaged_results_are_written_again(self, config, whole, copy):
        (copy / "results.json").write_text("{")
        run_benchmark(config, copy)
        assert_same(copy, whole)

    def test_no_checkpoint_is_trained_in_place_of_a_lost_one(self, whole, tmp_path, monkeypatch):
        file = Path(shutil.copy(whole / "models" / "plain.safetensors", tmp_path))
        config = tiny({"name": "m", "checkpoint": str(file)}, **SMALL)
        trained = Counted(monkeypatch, "train", preparation)
        check = preparation.check_model
        monkeypatch.setattr(benchmark, "check_model", lambda *args: (check(*args), file.unlink()))
        monkeypatch.setattr(benchmark, "model_hash", lambda path: "")
        with pytest.raises(RobustSNNError, match="does not exist"):
            run_benchmark(config, tmp_path / "out")
        assert trained.calls == 0
        assert not file.exists()


class TestFresh:
    def test_starts_again_and_leaves_other_files_alone(self, config, copy, monkeypatch):
        (copy / "notes.txt").write_text("mine")
        measured = Counted(monkeypatch, "measure")
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(config, copy, Stop(before="attack poisson"), fresh=True)
        assert measured.calls == BATCHES
        assert not (copy / "samples.parquet").exists()
        assert (copy / "notes.txt").read_text() == "mine"

    def test_deletes_nothing_before_the_new_run_is_known_to_be_possible(self, whole, copy):
        bad = tiny(PLAIN | {"architecture": "vgg12"})
        with pytest.raises(RobustSNNError, match="vgg11"):
            run_benchmark(bad, copy, fresh=True)
        assert samples(copy) == samples(whole)

    def test_does_not_delete_the_models_it_is_to_measure(self, copy):
        file = copy / "models" / "plain.safetensors"
        config = tiny({"name": "m", "checkpoint": str(file)}, **SMALL)
        for out in (copy, copy / "models" / ".."):
            with pytest.raises(RobustSNNError, match="which --fresh would delete"):
                run_benchmark(config, out, fresh=True)
        assert file.exists()

    @pytest.mark.parametrize("content", [{}, {"config.json": "{}"}, {"config.json": '{"tool": "other"}'}])
    def test_refuses_what_is_no_run(self, tmp_path, content):
        for name, text in ({"models": "precious"} | content).items():
            (tmp_path / name).write_text(text)
        with pytest.raises(RobustSNNError, match="not the folder of a robustsnn run"):
            run_benchmark(tiny(), tmp_path, Stop(after=1), fresh=True)
        assert (tmp_path / "models").read_text() == "precious"

    def test_does_not_follow_links(self, copy, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "precious").touch()
        shutil.rmtree(copy / "models")
        (copy / "models").symlink_to(elsewhere)
        delete_run(copy)
        assert (elsewhere / "precious").exists()
        assert not list(copy.iterdir())

    def test_an_empty_or_missing_folder_is_fine(self, tmp_path):
        for folder in (tmp_path, tmp_path / "missing"):
            delete_run(folder)
        assert not list(itertools.chain(tmp_path.iterdir()))
