"""Label maps, the confusion matrix and mean IoU: against counting by hand, torchmetrics and real street scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from realdata import real_data
from torch import Tensor, nn
from torchvision_shim import torchvision_or_skip

from robustsnn import dense
from robustsnn.errors import RobustSNNError

IGNORED = 255


def outputs_for(prediction: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(prediction, classes).movedim(-1, 1).float()


class TestScore:
    def test_by_hand(self) -> None:
        truth = torch.tensor([[[0, 0, 1], [1, 2, IGNORED]]])
        found = torch.tensor([[[0, 1, 1], [1, 2, 2]]])
        scored = dense.score_segmentation(outputs_for(found, 4), truth, IGNORED)
        assert scored.confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
        torch.testing.assert_close(scored.iou[:3].float(), torch.tensor([1 / 2, 2 / 3, 1.0]))
        assert scored.iou[3].isnan()
        assert scored.mean_iou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
        assert scored.pixel_accuracy == pytest.approx(4 / 5)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 5), st.booleans())
    def test_as_torchmetrics(self, seed: int, classes: int, ignore: bool) -> None:
        torchvision_or_skip()  # torchmetrics imports it
        classification = pytest.importorskip("torchmetrics.classification")
        generator = torch.Generator().manual_seed(seed)
        truth, found = (torch.randint(classes, (2, 4, 5), generator=generator) for _ in range(2))
        if ignore:
            truth[:, 0] = IGNORED
        index = IGNORED if ignore else None
        judge = classification.MulticlassJaccardIndex(classes, ignore_index=index)
        scored = dense.score_segmentation(outputs_for(found, classes), truth, index)
        assert scored.mean_iou == pytest.approx(float(judge(found, truth)), abs=1e-6)

    def test_batches_add_up(self) -> None:
        """IoU is over all pixels together, not the mean over images."""
        generator = torch.Generator().manual_seed(3)
        images, labels = torch.rand(5, 3, 8, 8, generator=generator), torch.randint(3, (5, 8, 8), generator=generator)
        net = nn.Conv2d(3, 3, 1)
        whole = dense.score_segmentation(net(images), labels)
        parts = dense.segmentation_score(net, images, labels, batch_size=2)
        assert torch.equal(whole.confusion, parts.confusion)
        assert parts.images == 5

    def test_nothing_but_ignored_pixels(self) -> None:
        scored = dense.score_segmentation(torch.rand(1, 2, 2, 2), torch.full((1, 2, 2), IGNORED), IGNORED)
        assert scored.mean_iou != scored.mean_iou
        assert scored.pixel_accuracy != scored.pixel_accuracy

    def test_over_time_is_that_of_separate_models(self) -> None:
        generator = torch.Generator().manual_seed(4)
        images, labels = torch.rand(3, 3, 8, 8, generator=generator), torch.randint(3, (3, 8, 8), generator=generator)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1)).double()
        images = images.double()
        model = dense.convert_dense(net, "opi", 4, images)
        steps = [9, 2]
        for count, found in zip(steps, dense.segmentation_over_time(model, images, labels, steps, batch_size=2)):
            alone = dense.segmentation_score(dense.convert_dense(net, "opi", count, images), images, labels)
            assert torch.equal(found.confusion, alone.confusion)


class TestBadInput:
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (torch.full((1, 4, 4), 3), r"16 pixels have the unknown class 3; the model has 3 classes"),
            (torch.full((1, 4, 4), -1), "unknown class -1"),
            (torch.zeros(1, 4, 5, dtype=torch.long), r"size of the outputs, \[1, 4, 4\], got \[1, 4, 5\]"),
            (torch.zeros(1, 4, 4), "must be integers"),
            (torch.zeros(2, 4, 4, dtype=torch.long), "size of the outputs"),
        ],
    )
    def test_labels(self, labels: Tensor, message: str) -> None:
        with pytest.raises(RobustSNNError, match=message):
            dense.score_segmentation(torch.rand(1, 3, 4, 4), labels)

    def test_class_logits(self) -> None:
        with pytest.raises(RobustSNNError, match=r"must return \[N, K, H, W\], got shape \[2, 3\]"):
            dense.score_segmentation(torch.rand(2, 3), torch.zeros(2, 4, 4, dtype=torch.long))

    def test_batches(self) -> None:
        images, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
        with pytest.raises(RobustSNNError, match="there are no images"):
            dense.segmentation_score(nn.Identity(), images[:0], labels[:0])
        with pytest.raises(RobustSNNError, match="2 images and 1 label maps"):
            dense.segmentation_score(nn.Identity(), images, labels[:1])
        with pytest.raises(RobustSNNError, match="batch_size"):
            dense.segmentation_score(nn.Identity(), images, labels, batch_size=0)


class TestFiles:
    def test_street_scenes(self) -> None:
        folder = real_data("camvid")
        images, labels = dense.load_label_maps(folder / "test", folder / "testannot", (90, 120))
        assert images.shape == (20, 3, 90, 120)
        assert labels.shape == (20, 90, 120)
        assert set(labels.unique().tolist()) == set(range(12))
        assert 0 <= images.min() < images.max() <= 1
        sky, road = (images.mean(1)[labels == kind].mean() for kind in (0, 3))
        assert sky > road + 0.2  # the maps lie on their photographs

    def test_broken_folders(self, tmp_path: Path) -> None:
        pictures, maps = tmp_path / "images", tmp_path / "labels"
        pictures.mkdir()
        maps.mkdir()
        with pytest.raises(RobustSNNError, match="no PNG or JPEG"):
            dense.load_label_maps(pictures, maps, (4, 4))
        Image.new("RGB", (6, 4)).save(pictures / "a.png")
        with pytest.raises(RobustSNNError, match=r"label map of a\.png is missing"):
            dense.load_label_maps(pictures, maps, (4, 4))
        Image.new("RGB", (6, 4)).save(maps / "a.png")
        with pytest.raises(RobustSNNError, match=r"has colours \(RGB\)"):
            dense.load_label_maps(pictures, maps, (4, 4))
        Image.new("L", (4, 6)).save(maps / "a.png")
        with pytest.raises(RobustSNNError, match="must be of one size"):
            dense.load_label_maps(pictures, maps, (4, 4))
        (maps / "a.png").write_bytes(b"nothing")
        with pytest.raises(RobustSNNError, match="cannot be read as an image"):
            dense.load_label_maps(pictures, maps, (4, 4))
