"""The trainer: it learns, repeats itself bit for bit, resumes, chooses on held-out data and stops at nonsense."""

from __future__ import annotations

import csv
import errno
import os
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from robustsnn.attacks import PGD
from robustsnn.datasets import Split, load
from robustsnn.defenses import AT, SR, CrossEntropy, EpochRecord, Objective, TrainConfig, build_model, train
from robustsnn.defenses.holdout import stratified_holdout
from robustsnn.defenses.optimization import learning_rate
from robustsnn.defenses.randomness import Stream, derived_seed, generator
from robustsnn.defenses.training_log import best_of
from robustsnn.encoding import PoissonEncoder
from robustsnn.errors import DivergedError, RobustSNNError
from robustsnn.models import ActivationSpec, ModelSpec, NeuronSpec

DIGITS = load("digits")
SMALL = DIGITS.train.take(120)
TINY = {"image_shape": (1, 8, 8), "num_classes": 10, "time_steps": 2, "options": {"width": 4, "hidden": 16}}
SPECS = {
    "direct": ModelSpec(**TINY),
    "poisson": ModelSpec(**TINY, encoder="poisson"),
    "plif": ModelSpec(**TINY, neuron=NeuronSpec(kind="plif")),
    "ann": ModelSpec(**TINY, neuron=ActivationSpec(kind="qcfs")),
}
SHORT = TrainConfig(epochs=4, batch_size=32, augment="shift")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class StopError(Exception):
    pass


class Interrupt:
    """Stops in the middle of the epoch after ``epoch``, as a pulled plug would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch(self, epoch, batch, batches, loss):
        if epoch == self.epoch + 1 and batch == 2:
            raise StopError

    def on_epoch(self, record, epochs):
        pass


def accuracy(model, split):
    images, labels = split.batch(slice(None))
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def test_a_spiking_network_learns_the_digits():
    model = build_model(ModelSpec(image_shape=(1, 8, 8), num_classes=10, time_steps=4), 0)
    result = train(model, DIGITS.train, CrossEntropy(), TrainConfig(epochs=4))
    assert accuracy(model, DIGITS.test) >= 0.95
    assert result.validation_accuracy >= 0.9
    assert not any(module.training for module in model.modules())


def test_an_ann_learns_the_digits():
    spec = ModelSpec(image_shape=(1, 8, 8), num_classes=10, neuron=ActivationSpec(kind="qcfs"))
    model = build_model(spec, 0)
    train(model, DIGITS.train, CrossEntropy(), TrainConfig(epochs=4))
    assert accuracy(model, DIGITS.test) >= 0.95


def test_sr_lowers_the_gradient_that_it_penalises():
    spec, penalties = ModelSpec(**{**TINY, "time_steps": 4, "options": {}}, neuron=NeuronSpec(kind="lif")), []
    for objective in (CrossEntropy(), SR(0.05)):
        model = build_model(spec, 0)
        train(model, DIGITS.train, objective, TrainConfig(epochs=4))
        assert accuracy(model, DIGITS.test) >= 0.9
        penalties.append(SR(1)(model, *DIGITS.test.batch(slice(None))).terms["sr"])
    assert penalties[1] < 0.6 * penalties[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("name", SPECS)
def test_an_interrupted_run_ends_with_the_same_bits(name, optimizer, tmp_path):
    config = SHORT.model_copy(update={"optimizer": optimizer, "grad_clip": 1.0, "lr": 0.01})
    whole = build_model(SPECS[name], 0)
    expected = train(whole, SMALL, SR(0.01), config, tmp_path / "whole")
    assert equal(weights(whole), weights_without_folder(name, config))

    torch.manual_seed(9)  # what the caller's generator says must not matter
    for stop in (1, 3):
        model = build_model(SPECS[name], stop)  # nor the initial weights, once there is something to go on from
        if stop == 1:
            model.load_state_dict(build_model(SPECS[name], 0).state_dict())
        with pytest.raises(StopError):
            train(model, SMALL, SR(0.01), config, tmp_path / "parts", progress=Interrupt(stop))
    model = build_model(SPECS[name], 7)
    result = train(model, SMALL, SR(0.01), config, tmp_path / "parts")
    assert equal(weights(model), weights(whole))
    assert [r.model_dump(exclude={"seconds"}) for r in result.history] == [
        r.model_dump(exclude={"seconds"}) for r in expected.history
    ]
    with torch.no_grad():
        images = SMALL.batch(slice(None))[0]
        assert torch.equal(model(images), whole(images))

    finished = build_model(SPECS[name], 8)
    assert train(finished, SMALL, SR(0.01), config, tmp_path / "parts") == result
    assert equal(weights(finished), weights(whole))


def weights_without_folder(name, config):
    model = build_model(SPECS[name], 0)
    train(model, SMALL, SR(0.01), config)
    return weights(model)


MUCH = {
    "ema": 0.8,
    "accumulate": 3,
    "select_by": "pgd",
    "select_images": 6,
    "schedule": "multistep",
    "milestones": (2, 3),
    "augment": ("autoaugment", "crop", "flip", "cutout"),
}


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_an_interrupted_run_with_everything_ends_with_the_same_bits(precision, tmp_path):
    config = SHORT.model_copy(update=MUCH | {"precision": precision, "epochs": 5})
    whole = build_model(SPECS["poisson"], 0)
    expected = train(whole, SMALL, SR(0.01), config)
    for stop in (1, 4):
        with pytest.raises(StopError):
            train(build_model(SPECS["poisson"], 0), SMALL, SR(0.01), config, tmp_path, progress=Interrupt(stop))
    model = build_model(SPECS["poisson"], 7)
    result = train(model, SMALL, SR(0.01), config, tmp_path)
    assert equal(weights(model), weights(whole))
    assert result.best_epoch == expected.best_epoch
    assert [r.robust_accuracy for r in result.history] == [r.robust_accuracy for r in expected.history]


class Smooth(nn.Module):
    """A small network in double precision, in which rounding does not grow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).double()

    def forward(self, images):
        return self.net(images.double())


@pytest.mark.parametrize("objective", [CrossEntropy(), SR(0.1), AT(steps=2), SR(0.1) + AT(steps=2)], ids=repr)
def test_parts_of_a_batch_add_up_to_the_whole(objective):
    ends, config = [], SHORT.model_copy(update={"epochs": 2, "optimizer": "sgd", "lr": 0.1, "grad_clip": 0.5})
    for accumulate in (1, 4, 26):  # batches have 26 or 27 images
        model = Smooth()
        result = train(model, SMALL, objective, config.model_copy(update={"accumulate": accumulate}))
        ends.append((weights(model), result))
    start = weights(Smooth())
    for other, result in ends[1:]:
        for key, expected in ends[0][0].items():
            torch.testing.assert_close(other[key], expected, rtol=1e-7, atol=1e-9)
            assert (expected - start[key]).abs().max() > 1e-3
        assert [r.loss for r in result.history] == pytest.approx([r.loss for r in ends[0][1].history], rel=1e-7)


def test_the_average_of_the_weights_is_what_is_measured_and_kept():
    seen, measured = [], []

    class Watch(Objective):
        def after_step(self, model):
            seen.append(weights(model))

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    torch.nn.init.zeros_(model[1].weight)
    average = {key: tensor.double() for key, tensor in weights(model).items()}
    model.register_forward_hook(
        lambda m, x, y: measured.append(weights(m)) if not m.training and len(x[0]) > 2 else None
    )
    config = TrainConfig(epochs=3, batch_size=20, ema=0.6, lr=0.1)
    result = train(model, SMALL, Watch(), config)
    history, steps = [], len(seen) // 3
    for k, now in enumerate(seen, 1):
        decay = min(0.6, k / (k + 9))
        for key, tensor in now.items():
            whole = not tensor.is_floating_point()
            average[key] = tensor if whole else decay * average[key] + (1 - decay) * tensor.double()
        if k % steps == 0:
            history.append(dict(average))
    assert len(measured) == 3
    for after, expected in zip(measured, history):
        for key, tensor in after.items():
            torch.testing.assert_close(tensor.double(), expected[key].double(), rtol=1e-4, atol=1e-6)
    assert equal(weights(model), measured[result.best_epoch - 1])
    assert not torch.allclose(measured[-1]["1.weight"], seen[-1]["1.weight"], atol=1e-3)


def test_the_best_epoch_is_chosen_under_attack(tmp_path):
    data, spec = DIGITS.train.take(400), ModelSpec(image_shape=(1, 8, 8), num_classes=10, time_steps=2)
    model = build_model(spec, 0)
    config = TrainConfig(epochs=4, select_by="pgd", select_eps=0.1, select_images=100)
    result = train(model, data, CrossEntropy(), config, tmp_path)
    _, held = stratified_holdout(data.labels, 0.1, generator(config, Stream.HOLDOUT))
    images, labels = data.batch(held)
    found = PGD(model, 0.1, steps=10, seed=derived_seed(config, Stream.VALIDATION))(images, labels)
    with torch.no_grad():
        robust = (model(found).argmax(1) == labels).float().mean().item()
    best = result.history[result.best_epoch - 1]
    assert 0 < robust < best.validation_accuracy
    assert best.robust_accuracy == pytest.approx(robust)
    assert best.robust_accuracy == max(r.robust_accuracy for r in result.history)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["robust_accuracy"]) for row in rows] == pytest.approx(
        [r.robust_accuracy for r in result.history], rel=1e-5
    )
    config = config.model_copy(update={"select_images": 3, "epochs": 1})
    (few,) = train(build_model(spec, 0), data, CrossEntropy(), config).history
    assert 3 * few.robust_accuracy in (0, 1, 2, 3)


def test_mixed_precision_learns_and_keeps_the_weights_in_full():
    models, spec = [], ModelSpec(image_shape=(1, 8, 8), num_classes=10, time_steps=2)
    for precision in ("32", "bf16-mixed"):
        models.append(build_model(spec, 0))
        inside = []
        models[-1].net[0].register_forward_hook(lambda m, x, y, seen=inside: seen.append((m.training, y.dtype)))
        train(models[-1], DIGITS.train.take(700), CrossEntropy(), TrainConfig(epochs=3, precision=precision))
        wide = torch.float32 if precision == "32" else torch.bfloat16
        assert set(inside) == {(True, wide), (False, torch.float32)}
    assert not equal(weights(models[0]), weights(models[1]))
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights(models[1]).values())
    assert accuracy(models[1], DIGITS.test) > 0.8
    assert accuracy(models[1], DIGITS.test) == pytest.approx(accuracy(models[0], DIGITS.test), abs=0.05)


def test_the_objective_looks_first_and_is_told_how_far_training_is():
    told, model = [], build_model(SPECS["direct"], 0)

    class Picky(Objective):
        def check(self, model):
            raise RobustSNNError("it has no leak")

        def penalty(self, batch):
            raise AssertionError

    class Noting(Objective):
        def penalty(self, batch):
            told.append(batch.progress)
            return {}

    with pytest.raises(RobustSNNError, match="no leak"):
        train(model, SMALL, Picky(), SHORT)
    train(model, SMALL, Noting(), SHORT)
    assert told == pytest.approx([k / 16 for k in range(16)])


def test_a_full_disk_leaves_the_last_epoch_as_it_was(tmp_path, monkeypatch):
    whole = build_model(SPECS["direct"], 0)
    train(whole, SMALL, CrossEntropy(), SHORT)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 2:  # the state and the log of the first epoch are there
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RobustSNNError, match=r"cannot write .*training.safetensors: No space left on device; make room"
    ):
        train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), SHORT, tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "training.safetensors"]
    model, told = build_model(SPECS["direct"], 3), []

    class Watch(Interrupt):
        def on_epoch(self, record, epochs):
            told.append(record.epoch)

    train(model, SMALL, CrossEntropy(), SHORT, tmp_path, progress=Watch(99))
    assert told == [2, 3, 4]
    assert equal(weights(model), weights(whole))


def test_tensorboard_shows_every_epoch_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(StopError):
        train(
            build_model(SPECS["direct"], 0), SMALL, SR(0.01), SHORT, tmp_path, progress=Interrupt(2), tensorboard=True
        )
    result = train(build_model(SPECS["direct"], 0), SMALL, SR(0.01), SHORT, tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = {"lr", "loss/total", "loss/ce", "loss/sr", "accuracy/train", "accuracy/validation"}
    assert set(events.Tags()["scalars"]) == names
    for name, key in (("loss/total", "loss"), ("accuracy/validation", "validation_accuracy")):
        scalars = events.Scalars(name)
        assert [s.step for s in scalars] == [1, 2, 3, 4]
        assert [s.value for s in scalars] == pytest.approx([getattr(r, key) for r in result.history], rel=1e-6)


def test_without_tensorboard_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RobustSNNError, match="pip install tensorboard"):
        train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), SHORT, tmp_path, tensorboard=True)


def test_a_batch_must_have_an_image_for_every_part():
    config = TrainConfig(epochs=1, batch_size=7, accumulate=7)  # 107 images are 15 batches of 6 or 7 and one of 6
    with pytest.raises(RobustSNNError, match="a batch of 6 images cannot be shared out among 1 processes in 7 parts"):
        train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), config)


def test_an_objective_with_random_inputs_resumes_too(tmp_path):
    class Noise(Objective):
        def inputs(self, model, images, labels):
            model(images)  # an attack that uses up draws of the encoder
            return images + 0.1 * torch.randn_like(images)

    whole = build_model(SPECS["poisson"], 0)
    train(whole, SMALL, Noise(), SHORT)
    model = build_model(SPECS["poisson"], 0)
    with pytest.raises(StopError):
        train(model, SMALL, Noise(), SHORT, tmp_path, progress=Interrupt(2))
    train(model, SMALL, Noise(), SHORT, tmp_path)
    assert equal(weights(model), weights(whole))


def test_the_seed_decides_and_the_caller_is_left_alone():
    torch.manual_seed(5)
    state, images = torch.random.get_rng_state(), SMALL.images.clone()
    runs = []
    for seed in (0, 0, 1):
        model = build_model(SPECS["poisson"], 0)
        with torch.no_grad():
            train(model, SMALL, SR(0.01), SHORT.model_copy(update={"seed": seed}))
            assert not torch.is_grad_enabled()
        runs.append(weights(model))
        torch.rand(3)
        torch.random.set_rng_state(state) if seed else None
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])
    assert torch.equal(SMALL.images, images)

    torch.random.set_rng_state(state)
    train(build_model(SPECS["poisson"], 0), SMALL, CrossEntropy(), SHORT)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_frozen_parameters_stay():
    model = build_model(SPECS["direct"], 0)
    model.net[0].weight.requires_grad_(False)
    before = model.net[0].weight.clone()
    train(model, SMALL, SR(0.01), SHORT)
    assert torch.equal(model.net[0].weight, before)
    assert not model.net[0].weight.requires_grad
    assert model.net[4].weight.requires_grad


class Seen(Objective):
    """Notes which images the objective gets."""

    def __init__(self):
        self.images = []

    def inputs(self, model, images, labels):
        self.images.append(images.clone())
        return images


def test_held_out_images_are_never_trained_on():
    seen, config = Seen(), TrainConfig(epochs=2, batch_size=50, validation_fraction=0.2)
    numbered = Split(torch.arange(200.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) / 200, torch.arange(200) % 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    evaluated = []
    model.register_forward_hook(lambda m, x, _: None if m.training else evaluated.append(x[0]))
    train(model, numbered, seen, config)
    _, held = stratified_holdout(numbered.labels, 0.2, generator(config, Stream.HOLDOUT))

    def numbers(batches):
        return (torch.cat(batches)[:, 0, 0, 0] * 200).round().long().tolist()

    trained = numbers(seen.images)
    assert len(held) == 40
    assert not set(trained) & set(held.tolist())
    assert sorted(trained) == sorted(2 * sorted(set(range(200)) - set(held.tolist())))
    assert trained[:160] != trained[160:]
    assert max(map(len, seen.images)) <= 50
    assert numbers(evaluated[1:]) == 2 * held.tolist()  # the first call is the check of two images


def test_batches_are_of_nearly_equal_size():
    seen = Seen()
    train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SMALL.take(97), seen, TrainConfig(epochs=1, batch_size=32,
          validation_fraction=0))  # fmt: skip
    assert [len(images) for images in seen.images] == [25, 24, 24, 24]


def record(epoch, validation, robust=None):
    accuracies = {"train_accuracy": 0.5, "validation_accuracy": validation, "robust_accuracy": robust}
    return EpochRecord(epoch=epoch, lr=0.1, loss=1, terms={}, seconds=1, **accuracies)


def test_the_best_epoch_is_the_later_of_equal_ones():
    assert best_of([record(1, 0.8), record(2, 0.9), record(3, 0.9), record(4, 0.7)]).epoch == 3
    assert best_of([record(1, None), record(2, None)]).epoch == 2
    assert best_of([record(1, 0.9, 0.4), record(2, 0.8, 0.5), record(3, 0.7, 0.5), record(4, 0.8, 0.5)]).epoch == 4
    assert best_of([record(1, 0.9, 0.0), record(2, 0.8, 0.0)]).epoch == 1


def test_the_best_weights_are_kept_not_the_last():
    class Worsening(Objective):
        """Learns for two epochs of one batch, then unlearns."""

        calls = 0

        def penalty(self, batch):
            self.calls += 1
            return {"bad": -2 * nn.functional.cross_entropy(batch.logits, batch.labels) * (self.calls > 2)}

    held = {}

    class Keep:
        def on_batch(self, *_):
            pass

        def on_epoch(self, record, epochs):
            held[record.epoch] = weights(model)

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    config = TrainConfig(epochs=8, batch_size=2000, lr=0.05, optimizer="adam", schedule="constant")
    result = train(model, DIGITS.train, Worsening(), config, progress=Keep())
    assert result.best_epoch < 8
    assert result.validation_accuracy == max(r.validation_accuracy for r in result.history)
    assert equal(weights(model), held[result.best_epoch])
    assert not equal(weights(model), held[8])


def test_the_log_has_a_row_per_epoch_and_a_column_per_term(tmp_path):
    batches = []

    class Watch:
        def on_batch(self, epoch, batch, of, loss):
            batches.append((epoch, batch, of))

        def on_epoch(self, record, epochs):
            assert epochs == 4

    result = train(build_model(SPECS["direct"], 0), SMALL, SR(0.01), SHORT, tmp_path, progress=Watch())
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert list(rows[0]) == ["epoch", "lr", "loss", "ce", "sr", "train_accuracy", "validation_accuracy", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    for row, entry in zip(rows, result.history):
        assert float(row["loss"]) == pytest.approx(float(row["ce"]) + float(row["sr"]), rel=1e-4)
        assert float(row["validation_accuracy"]) == pytest.approx(entry.validation_accuracy, rel=1e-5)
    assert float(rows[0]["lr"]) == SHORT.lr
    assert batches[:5] == [(1, 1, 4), (1, 2, 4), (1, 3, 4), (1, 4, 4), (2, 1, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "training.safetensors"]


def test_without_held_out_images_the_last_epoch_counts(tmp_path):
    config = SHORT.model_copy(update={"validation_fraction": 0.0})
    result = train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), config, tmp_path)
    assert (result.best_epoch, result.validation_accuracy) == (4, None)
    assert next(csv.DictReader((tmp_path / "log.csv").open()))["validation_accuracy"] == ""


class Nan(Objective):
    """Turns into NaN after some batches."""

    calls = 0

    def penalty(self, batch):
        self.calls += 1
        return {"nan": batch.logits.sum() * (torch.nan if self.calls > 9 else 0.0)}


def test_nan_stops_the_training_and_keeps_what_was_good(tmp_path):
    with pytest.raises(DivergedError, match=r"diverged: the loss is nan in epoch 3, batch 2 of 4; lower lr"):
        train(build_model(SPECS["direct"], 0), SMALL, Nan(), SHORT, tmp_path)
    model, good = build_model(SPECS["direct"], 1), Nan()
    good.calls = -100
    result = train(model, SMALL, good, SHORT, tmp_path)  # goes on from the two good epochs
    assert len(result.history) == 4
    assert good.calls == -100 + 8


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Poison(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            if self.training:
                self.bias.data[0] = torch.nan
            return out

    model = nn.Sequential(nn.Flatten(), Poison(64, 10))
    with pytest.raises(RobustSNNError, match="weights are not finite after epoch 1"):
        train(model, SMALL, CrossEntropy(), TrainConfig(epochs=1, lr=1e-9, batch_size=200), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": SHORT.model_copy(update={"lr": 0.5})}, "lr is 0.5 now and was 0.003"),
        ({"config": SHORT.model_copy(update={"epochs": 9})}, "epochs is 9 now and was 4"),
        ({"objective": SR(0.02)}, "the objective is SR(lam=0.02"),
        ({"data": SMALL.take(60)}, "training data"),
        ({"model": ModelSpec(**{**TINY, "time_steps": 3})}, "time_steps=3"),
        ({"model": ModelSpec(**TINY, neuron=NeuronSpec(alpha=2.0))}, "alpha=2.0"),
        ({"model": ModelSpec(**TINY, neuron=NeuronSpec(v_threshold=2.0))}, "v_threshold=2.0"),
        ({"model": ModelSpec(**{**TINY, "options": {"width": 8, "hidden": 16}})}, "net.0"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(changes, expected, tmp_path):
    run = {"model": SPECS["direct"], "data": SMALL, "objective": SR(0.01), "config": SHORT}
    with pytest.raises(StopError):
        train(build_model(run["model"], 0), *list(run.values())[1:], tmp_path, progress=Interrupt(1))
    saved = (tmp_path / "training.safetensors").read_bytes()
    other = {**run, **changes}
    with pytest.raises(RobustSNNError, match="another run") as caught:
        train(build_model(other["model"], 0), *list(other.values())[1:], tmp_path)
    assert expected in str(caught.value)
    assert (tmp_path / "training.safetensors").read_bytes() == saved


def test_a_damaged_state_is_reported(tmp_path):
    with pytest.raises(StopError):
        train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), SHORT, tmp_path, progress=Interrupt(1))
    state = tmp_path / "training.safetensors"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(RobustSNNError, match="cannot be read"):
        train(build_model(SPECS["direct"], 0), SMALL, CrossEntropy(), SHORT, tmp_path)


def test_what_cannot_work_fails_at_once(tmp_path):
    model, file = build_model(SPECS["direct"], 0), tmp_path / "file"
    file.write_text("")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    wide = Split(torch.rand(9, 1, 12, 12), torch.arange(9))
    for args, options, expected in [
        ((model, wide), {}, "does not take images of shape"),
        ((linear, SMALL), {}, "labels run from 0 to 9"),
        ((nn.Flatten(2), SMALL), {}, "expected .N, K."),
        ((frozen, SMALL), {}, "nothing to train"),
        ((model, SMALL.take(1)), {}, "at least 2 images"),
        ((model, SMALL), {"device": "gpu"}, "unknown device"),
        ((model, SMALL), {"device": "meta"}, "not on 'meta'"),
        ((model, SMALL), {"folder": file}, "cannot write to the folder"),
        ((model, SMALL), {"tensorboard": True}, "need a folder"),
        ((model, SMALL.select(SMALL.labels != 3)), {}, "no training image is of class 3, and the model has 10 classes"),
    ]:
        with pytest.raises(RobustSNNError, match=expected) as caught:
            train(*args, CrossEntropy(), SHORT, **options)
        assert "\n" not in str(caught.value)
    if not torch.cuda.is_available():
        with pytest.raises(RobustSNNError, match="not available"):
            train(model, SMALL, CrossEntropy(), SHORT, device="cuda")


def test_a_training_run_leaves_the_encoder_where_its_seed_says():
    model = build_model(SPECS["poisson"], 0)
    train(model, SMALL, CrossEntropy(), SHORT.model_copy(update={"seed": 3}))
    fresh, images = PoissonEncoder(3), SMALL.batch(slice(None))[0]
    assert torch.equal(model.encoder(images, 2), fresh(images, 2))


def test_the_learning_rate_rises_then_falls():
    config = TrainConfig(epochs=10, lr=1.0, warmup_epochs=2)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    config = TrainConfig(epochs=10, lr=1.0, schedule="multistep", milestones=(4, 8), gamma=0.5, warmup_epochs=1)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, *15 * [1.0], *20 * [0.5], *10 * [0.25]])
    constant = TrainConfig(epochs=10, lr=1.0, schedule="constant")
    assert {learning_rate(constant, step, 5) for step in range(50)} == {1.0}


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1}, {"optimiser": "sgd"}, {"epochs": 2, "warmup_epochs": 2},
                                   {"validation_fraction": 0.9}, {"seed": -1}, {"lr": float("inf")}, {"ema": 1.0},
                                   {"schedule": "multistep"}, {"milestones": [3]}, {"precision": "16"},
                                   {"schedule": "multistep", "milestones": [9, 3]},
                                   {"schedule": "multistep", "milestones": [20]},
                                   {"select_by": "pgd", "validation_fraction": 0}, {"select_by": "pgd", "select_eps": 8},
                                   {"accumulate": 8, "batch_size": 4}])  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        TrainConfig(**wrong)
