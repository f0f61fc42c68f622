"""Augmentation: what each kind does to an image, AutoAugment's policy, and batches that are changed part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from robustsnn.datasets import Split, load
from robustsnn.defenses import CrossEntropy, TrainConfig, train
from robustsnn.defenses.augment import AUGMENTATIONS, Augmentations, Crop, Cutout, Flip, names_of
from robustsnn.defenses.autoaugment import OPERATIONS, POLICY, change
from robustsnn.errors import RobustSNNError


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, channels=1, height=8, width=10):
    """Images whose pixels are all different."""
    size = count * channels * height * width
    return (torch.arange(1.0, size + 1) / (size + 1)).view(count, channels, height, width)


def moved(image, down, right):
    """The image moved by whole pixels; 0 comes in."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    to = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    of = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
    out[:, *to] = image[:, *of]
    return out


def test_a_crop_is_a_translation_of_at_most_an_eighth():
    images, seen = numbered(60, height=16, width=24), set()
    changed = Crop().apply(images, Crop().draw(60, 16, 24, gen()))
    for image, after in zip(images, changed):
        shifts = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if torch.equal(moved(image, d, r), after)]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert {d for d, _ in seen} == {r for _, r in seen} == {-2, -1, 0, 1, 2}


def test_a_flip_mirrors_every_second_image():
    images = numbered(200)
    changed = Flip().apply(images, Flip().draw(200, 8, 10, gen()))
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, changed)])
    mirrored = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(images, changed)])
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_cutout_blackens_a_square_that_may_jut_out():
    images, sizes = torch.ones(300, 3, 8, 10), set()
    changed = Cutout().apply(images, Cutout().draw(300, 8, 10, gen()))
    assert torch.equal(images, torch.ones_like(images))
    for after in changed:
        hole = after[0] == 0
        assert torch.equal(after, (~hole).float().expand(3, -1, -1))
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert hole.sum() == len(rows) * len(columns)
        assert len(rows) == rows[-1] - rows[0] + 1
        assert len(columns) == columns[-1] - columns[0] + 1
        sizes.add((len(rows), len(columns)))
    assert max(sizes) == (4, 4)
    assert (2, 2) in sizes  # a corner
    assert 0.4 < sum((after == 0).sum().item() == 3 * 16 for after in changed) / 300 < 0.6  # 5/8 of 7/10


def test_the_policy_has_the_operations_of_the_paper():
    assert len(POLICY) == 25
    used = {name for pair in POLICY for name, _, _ in pair}
    assert used == set(OPERATIONS)
    assert all(0 <= p <= 1 and 0 <= m <= 9 for pair in POLICY for _, p, m in pair)


@pytest.fixture
def picture():
    levels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    return levels, Image.fromarray(levels)


def test_operations_do_what_their_names_say(picture):
    levels, image = picture

    def after(name, amount, sign=1):
        return np.asarray(OPERATIONS[name](image, amount, sign))

    assert np.array_equal(after("invert", 0.3), 255 - levels)
    assert np.array_equal(after("posterize", 1.0), levels & 0xF0)
    assert np.array_equal(after("posterize", 0.0), levels)
    half = after("solarize", 0.5)
    assert np.array_equal(half, np.where(levels < 128, levels, 255 - levels))
    for name in ("contrast", "color", "brightness", "sharpness"):
        assert np.abs(after(name, 0.5).astype(int) - levels).max() <= 1, name  # factor 1
    assert np.abs(after("brightness", 0.0).astype(float) - 0.1 * levels).max() <= 1
    assert np.abs(after("brightness", 1.0).astype(float) - np.minimum(1.9 * levels, 255)).max() <= 1
    for sign in (1, -1):
        for name, down, right in (
            ("translate-x", 0, -6 * sign),
            ("translate-y", -5 * sign, 0),
        ):  # 10/32 of 20 and of 16
            expected = moved(torch.from_numpy(levels.copy()).permute(2, 0, 1), down, right).permute(1, 2, 0)
            assert np.array_equal(after(name, 1.0, sign), expected.numpy()), name
    assert np.array_equal(after("rotate", 0.0), levels)
    assert np.array_equal(after("shear-y", 0.0), levels)
    assert not np.array_equal(after("rotate", 1.0, 1), after("rotate", 1.0, -1))
    stretched = after("autocontrast", 0.0)
    assert (stretched.min((0, 1)) == 0).all()
    assert (stretched.max((0, 1)) == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sub_policy_does_its_operations_in_turn(channels):
    levels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (channels, 12, 12), dtype=np.uint8))
    image = levels.float() / 255
    inverted = 23 / 25 + 0.01  # equalize .8, invert .1

    def check(draws, expected):
        assert torch.equal((change(image, draws) * 255).round().byte(), expected)

    arranged = levels.permute(1, 2, 0).numpy()
    equal = ImageOps.equalize(Image.fromarray(arranged[..., 0] if channels == 1 else arranged))
    equalized = torch.from_numpy(np.array(equal)).view(12, 12, channels).permute(2, 0, 1)
    check([inverted, 0.81, 0.11, 0, 0], levels)
    check([inverted, 0.81, 0.09, 0, 0], 255 - levels)
    check([inverted, 0.79, 0.11, 0, 0], equalized)
    check([inverted, 0.79, 0.09, 0, 0], 255 - equalized)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(set(AUGMENTATIONS) - {"event-drop"})), unique=True, max_size=4),
    seed=st.integers(0, 999),
    channels=st.sampled_from([1, 3]),
    cut=st.integers(0, 7),
)
def test_parts_of_a_batch_are_changed_as_in_the_whole(names, seed, channels, cut):
    images = torch.rand(7, channels, 8, 10, generator=gen(seed))
    before, kinds = images.clone(), Augmentations(names_of(names), 8, 10)
    drawn = kinds.draw(7, gen(seed))
    whole = kinds.apply(images, drawn, torch.arange(7))
    assert torch.equal(images, before)
    assert whole.shape == images.shape
    assert whole.dtype == images.dtype
    assert whole.min() >= 0
    assert whole.max() <= 1
    parts = [part for part in torch.arange(7).split([cut, 7 - cut]) if len(part)]
    assert torch.equal(torch.cat([kinds.apply(images[part], drawn, part) for part in parts]), whole)


def test_names_old_and_new():
    assert names_of("none") == ()
    assert names_of("shift") == ("crop",)
    assert names_of("crop-flip") == names_of(("crop", "flip")) == names_of(["shift", "flip"])
    assert names_of(["crop-flip", "cutout"]) == ("crop", "flip", "cutout")
    with pytest.raises(RobustSNNError, match=r"unknown augmentation 'cutoff'\. Did you mean 'cutout'"):
        names_of("cutoff")
    with pytest.raises(RobustSNNError, match="crop is asked for twice"):
        names_of(("crop-flip", "crop"))
    for wrong in ("cutoff", ("flip", "flip")):
        with pytest.raises(ValueError, match=r"cutoff|twice"):
            TrainConfig(augment=wrong)


def test_old_and_new_spelling_train_alike():
    data, ends = load("digits").train.take(120), []
    for spelling in ("crop-flip", ("crop", "flip")):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        train(model, data, CrossEntropy(), TrainConfig(epochs=2, augment=spelling))
        ends.append(model[1].weight.detach().clone())
    assert torch.equal(*ends)


def test_autoaugment_wants_pictures():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 10))
    two = Split(torch.rand(20, 2, 8, 8), torch.arange(20) % 10)
    with pytest.raises(RobustSNNError, match="1 or 3 channels, these have 2"):
        train(model, two, CrossEntropy(), TrainConfig(epochs=1, augment=("autoaugment",)))
