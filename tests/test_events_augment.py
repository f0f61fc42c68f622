"""Augmentation of frames of events: every step of a recording is moved alike, counts stay counts, shares are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustsnn.datasets import load
from robustsnn.datasets.events import FrameSplit
from robustsnn.defenses import CrossEntropy, TrainConfig, train
from robustsnn.defenses.augment import AUGMENTATIONS, Augmentations, augment, names_of
from robustsnn.defenses.event_augment import NDA, EventDrop, rotation, shear
from robustsnn.errors import RobustSNNError

T, P, H, W = 5, 2, 9, 12
MOVING = ("crop", "flip", "cutout", "nda")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frames(n: int = 6, seed: int = 0, height: int = H, width: int = W) -> torch.Tensor:
    """Counts 0 to 3, float32."""
    return torch.randint(4, (n, T, P, height, width), generator=gen(seed)).float()


class TestEveryStepAlike:
    @pytest.mark.parametrize("name", MOVING)
    def test_frames_are_images_of_many_channels(self, name):
        x, kind = frames(20), AUGMENTATIONS[name]()
        drawn = kind.draw(20, H, W, gen())
        changed = kind.apply(x, drawn)
        assert changed.shape == x.shape
        assert torch.equal(changed.flatten(1, 2), kind.apply(x.flatten(1, 2), drawn))
        for t in range(T):
            assert torch.equal(changed[:, t], kind.apply(x[:, t], drawn))
        assert not torch.equal(changed, x)

    @settings(max_examples=30, deadline=None)
    @given(
        names=st.lists(st.sampled_from([*MOVING, "event-drop"]), unique=True, max_size=4),
        seed=st.integers(0, 999),
        cut=st.integers(0, 7),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    def test_parts_of_a_batch_are_changed_as_in_the_whole(self, names, seed, cut, dtype):
        x = frames(7, seed).to(dtype)
        before, kinds = x.clone(), Augmentations(names_of(names), H, W)
        drawn = kinds.draw(7, gen(seed))
        whole = kinds.apply(x, drawn, torch.arange(7))
        assert torch.equal(x, before)
        assert whole.dtype == dtype
        assert set(whole.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
        parts = [part for part in torch.arange(7).split([cut, 7 - cut]) if len(part)]
        assert torch.equal(torch.cat([kinds.apply(x[part], drawn, part) for part in parts]), whole)
        assert torch.equal(augment(x, names, gen(seed)), whole)

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        augment(frames(), ["event-drop", "nda"], gen())
        assert torch.equal(torch.get_rng_state(), before)


class TestEventDrop:
    def apply(self, x, way, amount=0.0, first=0.0, second=0.0, seed=0.0):
        rows = torch.tensor([[way, amount, first, second, seed]], dtype=torch.float64).expand(len(x), -1)
        return EventDrop().apply(x, rows)

    def test_nothing(self):
        assert torch.equal(self.apply(frames(), 0.24, 0.9), frames())

    @pytest.mark.parametrize(("amount", "length"), [(0.0, 1), (0.34, 4), (0.99, 9)])
    def test_a_stretch_of_time(self, amount, length):
        x = torch.ones(1, 10, P, H, W)
        for start in range(10):
            kept = self.apply(x, 0.3, amount, (start + 0.5) / 10)[0].flatten(1).sum(1) > 0
            assert kept.tolist() == [not start <= t < start + length for t in range(10)]

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_never_all_of_the_time(self, steps):
        assert self.apply(torch.ones(1, steps, P, H, W), 0.3, 0.99, 0.0).sum() > 0

    def test_an_area(self):
        x = torch.ones(1, 3, P, 20, 40)
        for amount, rows, columns in ((0.0, 1, 2), (0.5, 3, 6), (0.99, 5, 10)):
            for corner, top, left in ((0.0, 0, 0), (0.999999, 20 - rows, 40 - columns)):
                expected = x.clone()
                expected[..., top : top + rows, left : left + columns] = 0
                assert torch.equal(self.apply(x, 0.6, amount, corner, corner), expected)

    @pytest.mark.parametrize("tenths", range(1, 10))
    def test_a_share_of_the_events(self, tenths):
        x = frames(1)
        left = self.apply(x, 0.8, (tenths - 0.5) / 9, seed=0.3)
        assert x.sum() - left.sum() == round(tenths / 10 * int(x.sum()))
        assert ((left >= 0) & (left <= x)).all()

    def test_every_event_is_as_likely_to_go(self):
        """Of an entry with three events as many go as of three entries with one: each with probability .5."""
        x = torch.zeros(2000, 1, 1, 2, 2)
        x[..., 0, 0], x[..., 0, 1], x[..., 1, 0] = 3, 1, 2
        rows = torch.rand(2000, 5, generator=gen(), dtype=torch.float64)
        rows[:, 0], rows[:, 1] = 0.9, 0.5
        mean = (x - EventDrop().apply(x, rows)).mean(0)[0, 0]
        # Standard deviation of the mean of three events' losses below .02.
        assert torch.allclose(mean, torch.tensor([[1.5, 0.5], [1.0, 0.0]]), atol=0.08)

    def test_the_four_ways_are_equally_likely(self):
        ways = (EventDrop().draw(4000, H, W, gen())[:, 0] * 4).long().bincount()
        assert (ways - 1000).abs().max() < 130  # 4.7 standard deviations

    def test_empty_recordings_stay_empty(self):
        x = torch.zeros(40, T, P, H, W)
        assert torch.equal(augment(x, "event-drop", gen()), x)

    def test_images_are_refused(self):
        with pytest.raises(RobustSNNError, match="event-drop takes frames of events"):
            augment(torch.rand(2, 3, 8, 8), "event-drop", gen())


class TestNDA:
    def apply(self, x, which, far=0.5, further=0.5):
        return NDA().apply(x, torch.tensor([[which, far, further]], dtype=torch.float64).expand(len(x), -1))

    def test_rolls_as_in_the_release(self):
        """At 48 pixels up to 5 each way, all of them."""
        x, seen = frames(2, height=48, width=48), set()
        for u in torch.linspace(0, 0.999, 23).tolist():
            changed = self.apply(x, 0.1, u, 0.999 - u)
            shift = int(u * 11) - 5, int((0.999 - u) * 11) - 5
            assert torch.equal(changed, x.roll(shift, (3, 4)))
            seen.add(shift[0])
        assert seen == set(range(-5, 6))

    def test_no_movement_at_the_middle(self):
        for which in (0.1, 0.5, 0.9):
            assert torch.equal(self.apply(frames(), which), frames())

    @pytest.mark.parametrize("degrees", [-29.3, -7.1, 3.3, 17.9, 29.9])
    def test_turns_and_shears_as_pillow_does(self, degrees):
        """Counter-clockwise about the centre; rows below the middle to the left. Pillow rounds a few halves otherwise."""
        x, far = frames(1, height=21, width=30), (degrees + 30) / 60
        slope = math.tan(math.radians(degrees))
        turned, sheared = (self.apply(x, which, far) for which in (0.5, 0.9))
        for plane, one, other in zip(x.flatten(0, 2), turned.flatten(0, 2), sheared.flatten(0, 2)):
            picture = Image.fromarray(plane.byte().numpy())
            rotated = np.asarray(picture.rotate(degrees))
            moved = np.asarray(picture.transform((30, 21), Image.Transform.AFFINE, (1, slope, -slope * 10.5, 0, 1, 0)))
            assert (one.numpy() != rotated).mean() < 0.01
            assert (other.numpy() != moved).mean() < 0.01

    def test_a_quarter_turn_and_a_shear_by_hand(self):
        """Matrices give the place in the image before: after a quarter turn the top comes from the right."""
        quarter = np.array(rotation(math.pi / 2))
        assert np.allclose(quarter @ [-1, 0], [0, 1])  # (y, x) from the centre
        assert np.allclose(quarter @ [0, -1], [-1, 0])
        assert np.allclose(np.array(shear(math.pi / 4)) @ [2, 0], [2, 2])

    def test_three_movements_are_equally_likely(self):
        ways = (NDA().draw(3000, H, W, gen())[:, 0] * 3).long().bincount()
        assert (ways - 1000).abs().max() < 120


class TestTraining:
    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(T * P * H * W, 4))

    def split(self) -> FrameSplit:
        return FrameSplit(frames(40).to(torch.uint8), torch.arange(40) % 4)

    def test_by_name_and_repeatable_in_parts(self):
        ends = []
        for accumulate in (1, 2):
            model = self.model()
            names = ("crop-flip", "nda", "event-drop", "cutout")
            train(model, self.split(), CrossEntropy(), TrainConfig(epochs=2, augment=names, accumulate=accumulate))
            ends.append(model[1].weight.detach().clone())
        assert torch.allclose(*ends, atol=1e-6)
        plain = self.model()
        train(plain, self.split(), CrossEntropy(), TrainConfig(epochs=2))
        assert not torch.allclose(plain[1].weight, ends[0], atol=1e-4)

    def test_what_does_not_fit_is_said_before_training(self):
        with pytest.raises(
            RobustSNNError, match="autoaugment takes images of 1 or 3 channels, these are frames of events"
        ):
            train(self.model(), self.split(), CrossEntropy(), TrainConfig(epochs=1, augment="autoaugment"))
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        with pytest.raises(RobustSNNError, match="event-drop takes frames of events, and these are images"):
            train(net, load("digits").train.take(60), CrossEntropy(), TrainConfig(epochs=1, augment="event-drop"))
