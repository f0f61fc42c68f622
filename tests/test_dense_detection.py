"""Boxes, FCOS and average precision: against greedy loops, boxes encoded by hand, torchmetrics and real photographs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import real_data
from torch import Tensor
from torchvision_shim import torchvision_or_skip

from robustsnn import dense
from robustsnn.errors import RobustSNNError

EMPTY = dense.Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


def random_boxes(count: int, seed: int, classes: int = 2, scored: bool = True, side: float = 64) -> dense.Boxes:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side / 2
    size = 4 + torch.rand(count, 2, generator=generator) * side / 2
    scores = torch.rand(count, generator=generator) if scored else None
    labels = torch.randint(classes, (count,), generator=generator)
    return dense.Boxes(torch.cat([corner, corner + size], 1), labels, scores)


def slow_overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return (
        shared / sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        if not shared
        else shared / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared)
    )


class TestBoxes:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.integers(0, 12), st.floats(0.1, 0.9))
    def test_suppression_is_the_greedy_loop(self, seed: int, count: int, threshold: float) -> None:
        boxes = random_boxes(count, seed)
        assert boxes.scores is not None
        corners, kept = boxes.corners.tolist(), []
        for place in sorted(range(count), key=lambda at: -float(boxes.scores[at])):  # type: ignore[index]
            if all(slow_overlap(corners[place], corners[other]) <= threshold for other in kept):
                kept.append(place)
        assert dense.suppress(boxes.corners, boxes.scores, threshold).tolist() == kept

    def test_overlaps_by_hand(self) -> None:
        one = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
        other = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [5, 5, 5, 5]])
        assert dense.overlaps(one, other).tolist() == [[pytest.approx(1 / 7), 1, 0, 0], [0, 0, 0, 0]]

    @pytest.mark.parametrize(
        ("corners", "classes", "message"),
        [
            (torch.tensor([[3.0, 0, 3, 4]]), torch.tensor([0]), "has no area"),
            (torch.tensor([[0.0, 0, 1, float("nan")]]), torch.tensor([0]), "has no area"),
            (torch.zeros(4), torch.tensor([0]), r"shape \[n, 4\]"),
            (torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([-1]), "whole numbers from 0"),
            (torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0, 1]), r"shape \[1\]"),
        ],
    )
    def test_bad_boxes(self, corners: Tensor, classes: Tensor, message: str) -> None:
        with pytest.raises(RobustSNNError, match=message):
            dense.Boxes(corners, classes)


def encoded(fcos: dense.Fcos, boxes: dense.Boxes, side: int) -> Tensor:
    """The raw map of a perfect detector, written place by place for boxes that do not share a central part."""
    outputs = torch.full((1, fcos.num_classes + 5, side, side), -8.0, dtype=torch.float64)
    for (x1, y1, x2, y2), label in zip(boxes.corners.tolist(), boxes.classes.tolist()):
        for row in range(side):
            for column in range(side):
                x, y = (column + 0.5) * fcos.stride, (row + 0.5) * fcos.stride
                near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) <= fcos.radius * fcos.stride
                if x1 < x < x2 and y1 < y < y2 and near:
                    outputs[0, label, row, column] = 8
                    sides = torch.tensor([x - x1, y - y1, x2 - x, y2 - y]).double() / fcos.stride
                    outputs[0, fcos.num_classes : fcos.num_classes + 4, row, column] = sides
                    lr, tb = sides[[0, 2]], sides[[1, 3]]
                    share = (lr.min() / lr.max() * tb.min() / tb.max()).sqrt()
                    outputs[0, -1, row, column] = share.clamp(1e-4, 1 - 1e-4).logit()
    return outputs


class TestFcos:
    truth = dense.Boxes(torch.tensor([[2.0, 6, 30, 27], [40, 33, 63, 64]]), torch.tensor([1, 0]))

    def test_a_perfect_map_gives_the_boxes(self) -> None:
        fcos = dense.Fcos(2, stride=8)
        (found,) = fcos.decode(encoded(fcos, self.truth, 8), score=0.3)
        assert sorted(found.classes.tolist()) == [0, 1]
        order = found.classes.argsort(descending=True)
        torch.testing.assert_close(found.corners[order].float(), self.truth.corners)

    def test_a_perfect_map_has_no_gradient_on_its_distances(self) -> None:
        """GIoU is 1 at the true boxes, the focal loss is nearly 0, the centre's entropy is minimal."""
        fcos = dense.Fcos(2, stride=8)
        outputs = encoded(fcos, self.truth, 8)
        best = fcos.loss(outputs, [self.truth]).item()
        for channel in (0, 1, 3, 5, 6):
            for shift in (-0.5, 0.5):
                worse = outputs.clone()
                worse[:, channel] += shift * (1 if channel > 1 else -8 * worse[:, channel].sign())
                if channel > 1 or shift > 0:
                    assert fcos.loss(worse, [self.truth]).item() > best, (channel, shift)

    def test_gradient_is_the_finite_difference(self) -> None:
        fcos = dense.Fcos(2, stride=8)
        generator = torch.Generator().manual_seed(0)
        outputs = torch.rand(2, 7, 2, 3, generator=generator, dtype=torch.float64) + 0.5
        boxes = [dense.Boxes(torch.tensor([[3.0, 3, 22, 14]]), torch.tensor([1])), EMPTY]
        assert torch.autograd.gradcheck(lambda z: fcos.loss(z, boxes), outputs.requires_grad_())

    def test_images_do_not_touch_each_other(self) -> None:
        fcos = dense.Fcos(2)
        outputs = torch.rand(2, 7, 8, 8)
        both = fcos.loss(outputs, [self.truth, EMPTY])
        alone = torch.cat([fcos.loss(outputs[:1], [self.truth]), fcos.loss(outputs[1:], [EMPTY])])
        torch.testing.assert_close(both, alone)

    def test_classes_do_not_suppress_each_other(self) -> None:
        fcos = dense.Fcos(2, stride=8)
        outputs = encoded(fcos, dense.Boxes(self.truth.corners[:1], torch.tensor([0])), 8)
        outputs[:, 1] = outputs[:, 0]
        (found,) = fcos.decode(outputs, score=0.3)
        assert sorted(found.classes.tolist()) == [0, 1]
        assert len(fcos.decode(outputs, score=0.3, most=1)[0]) == 1

    def test_a_box_smaller_than_a_stride_has_a_place(self) -> None:
        fcos = dense.Fcos(1, stride=8)
        tiny = dense.Boxes(torch.tensor([[15.0, 15, 17, 17]]), torch.tensor([0]))
        outputs = torch.zeros(1, 6, 4, 4, requires_grad=True)
        fcos.loss(outputs, [tiny]).sum().backward()
        assert outputs.grad is not None
        assert (outputs.grad[0, 0] < 0).sum() == 1

    def test_nothing_found(self) -> None:
        (found,) = dense.Fcos(1).decode(torch.full((1, 6, 2, 2), -20.0))
        assert len(found) == 0

    def test_bad_input(self) -> None:
        fcos = dense.Fcos(1)
        with pytest.raises(RobustSNNError, match=r"must return \[N, 6, h, w\], got \[1, 7, 2, 2\]"):
            fcos.decode(torch.rand(1, 7, 2, 2))
        with pytest.raises(RobustSNNError, match="2 images and boxes of 1"):
            fcos.loss(torch.rand(2, 6, 2, 2), [EMPTY])
        with pytest.raises(RobustSNNError, match="unknown class 1; the model has 1 classes"):
            fcos.loss(torch.rand(1, 6, 8, 8), [self.truth])
        with pytest.raises(RobustSNNError, match="at least 1"):
            dense.Fcos(0)


def shifted(boxes: dense.Boxes, pixels: float, score: float = 0.9) -> dense.Boxes:
    return dense.Boxes(boxes.corners + pixels, boxes.classes, torch.full((len(boxes),), score))


class TestAveragePrecision:
    def test_by_hand(self) -> None:
        """A box of 20 shifted by 2 has an IoU of 18 * 18 / (800 - 324) = 0.68: found at 0.5, 0.55, 0.6, 0.65 of ten."""
        pytest.importorskip("pycocotools")
        truth = [dense.Boxes(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0]))]
        found = dense.average_precision([shifted(truth[0], 2)], truth)
        assert found.at_half == pytest.approx(1)
        assert found.mean == pytest.approx(0.4)

    @pytest.mark.parametrize("seed", range(3))
    def test_as_torchmetrics(self, seed: int) -> None:
        pytest.importorskip("pycocotools")
        torchvision_or_skip()
        mean_ap = pytest.importorskip("torchmetrics.detection.mean_ap")
        truth = [random_boxes(count, 10 * seed + count, scored=False) for count in (3, 0, 5)]
        found = [
            dense.Boxes(
                torch.cat([boxes.corners + seed, noise.corners]),
                torch.cat([boxes.classes, noise.classes]),
                torch.cat([torch.linspace(0.3, 0.9, len(boxes)), noise.scores]),  # type: ignore[list-item]
            )
            for boxes, noise in zip(truth, (random_boxes(count, 77 + seed + count) for count in (2, 1, 4)))
        ]
        judge = mean_ap.MeanAveragePrecision(  # its own default thresholds are rounded to float32, COCO's are not
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist()
        )
        judge.update(
            [{"boxes": each.corners, "labels": each.classes, "scores": each.scores} for each in found],
            [{"boxes": each.corners, "labels": each.classes} for each in truth],
        )
        wanted, scored = judge.compute(), dense.average_precision(found, truth)
        assert scored.mean == pytest.approx(float(wanted["map"]), abs=1e-6)
        assert scored.at_half == pytest.approx(float(wanted["map_50"]), abs=1e-6)
        assert 0 < scored.mean < 1

    def test_empty(self) -> None:
        pytest.importorskip("pycocotools")
        nothing = dense.Boxes(EMPTY.corners, EMPTY.classes, torch.zeros(0))
        truth = random_boxes(2, 1, scored=False)
        assert dense.average_precision([nothing], [truth]).mean == 0
        empty = dense.average_precision([shifted(truth, 0)], [EMPTY])
        assert empty.mean != empty.mean
        with pytest.raises(RobustSNNError, match="at least one image"):
            dense.average_precision([], [])
        with pytest.raises(RobustSNNError, match="need scores"):
            dense.average_precision([truth], [truth])

    def test_without_pycocotools(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
        truth = random_boxes(1, 1, scored=False)
        with pytest.raises(RobustSNNError, match=r"pip install 'robustsnn\[dense\]'"):
            dense.average_precision([shifted(truth, 0)], [truth])

    def test_over_time_is_that_of_separate_models(self) -> None:
        pytest.importorskip("pycocotools")
        generator = torch.Generator().manual_seed(5)
        net = dense.SmallFcos(1, width=4).double().eval()
        images = torch.rand(3, 3, 32, 32, generator=generator, dtype=torch.float64)
        truth = [random_boxes(1, seed, 1, scored=False, side=32) for seed in range(3)]
        fcos, steps = dense.Fcos(1), [12, 3]
        model = dense.convert_dense(net, "opi", 4, images)

        def decode(outputs: Tensor) -> list[dense.Boxes]:
            return fcos.decode(outputs, score=0.0)

        found = dense.detection_over_time(model, images, truth, decode, steps, batch_size=2)
        for count, at in zip(steps, found):
            alone = dense.convert_dense(net, "opi", count, images)
            assert at == dense.detection_score(alone, images, truth, decode, batch_size=2)


VOC = """<annotation><object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax>
</bndbox></object></annotation>"""


class TestFiles:
    def test_photographs_of_raccoons(self) -> None:
        folder = real_data("raccoon")
        images, truth = dense.load_voc_boxes(folder / "images", folder / "annotations", (64, 96), ["raccoon"])
        assert images.shape == (40, 3, 64, 96)
        assert sum(map(len, truth)) == 43
        corners = torch.cat([boxes.corners for boxes in truth])
        assert corners.min() >= 0
        assert (corners <= torch.tensor([96.0, 64, 96, 64]) + 1e-4).all()
        first = truth[0].corners[0]  # raccoon-1.jpg is 650 x 417 with a box from (81, 88) to (522, 408)
        torch.testing.assert_close(first, torch.tensor([80 / 650 * 96, 87 / 417 * 64, 522 / 650 * 96, 408 / 417 * 64]))

    def test_broken_files(self, tmp_path: Path) -> None:
        from PIL import Image

        Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg")
        with pytest.raises(RobustSNNError, match=r"annotation of a\.jpg is missing"):
            dense.load_voc_boxes(tmp_path, tmp_path, (8, 8), ["cat"])
        for text, message in {
            VOC.format(name="dog", x1=1): "unknown class 'dog'; known: cat",
            VOC.format(name="cat", x1=""): "no Pascal VOC annotation",
            VOC.format(name="cat", x1=30): "has no area",
            "<annotation>": "no Pascal VOC annotation",
        }.items():
            (tmp_path / "a.xml").write_text(text)
            with pytest.raises(RobustSNNError, match=message):
                dense.load_voc_boxes(tmp_path, tmp_path, (8, 8), ["cat"])
        (tmp_path / "a.xml").write_text("<annotation></annotation>")
        assert len(dense.load_voc_boxes(tmp_path, tmp_path, (8, 8), ["cat"])[1][0]) == 0
