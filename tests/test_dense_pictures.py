"""Pictures of dense outputs: the colours and boxes that are in them, and what cannot be drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from robustsnn import dense
from robustsnn.errors import RobustSNNError
from robustsnn.report.style import png

IMAGES = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
NAMES = ["sky", "road", "car"]


class TestSegmentation:
    def test_colours_over_the_photograph(self) -> None:
        maps = torch.zeros(2, 6, 8, dtype=torch.long)
        maps[:, 3:], maps[:, :, 0] = 1, 255
        figure = dense.segmentation_figure(IMAGES, {"truth": maps}, NAMES, ignore_index=255, opacity=0.25)
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["image", "truth", "", ""]
        shown = np.asarray(figure.axes[3].images[0].get_array())
        photograph = IMAGES[1].permute(1, 2, 0).numpy()
        legend = {text.get_text(): to_rgb(patch.get_facecolor()) for text, patch in _legend(figure)}
        assert set(legend) == set(NAMES)
        for place, colour in {(0, 4): legend["sky"], (5, 4): legend["road"], (2, 0): (0, 0, 0)}.items():
            wanted = 0.75 * photograph[place] + 0.25 * np.array(colour)
            np.testing.assert_allclose(shown[place], wanted, atol=1e-6)
        assert png(figure).startswith(b"\x89PNG")

    def test_bad_maps(self) -> None:
        with pytest.raises(RobustSNNError, match=r"map 'SNN' must have shape \[2, 6, 8\], got \[2, 3, 6, 8\]"):
            dense.segmentation_figure(IMAGES, {"SNN": IMAGES}, NAMES)
        with pytest.raises(RobustSNNError, match="has the class 3; there are 3 names"):
            dense.segmentation_figure(IMAGES, {"SNN": torch.full((2, 6, 8), 3)}, NAMES)
        with pytest.raises(RobustSNNError, match="nothing to draw"):
            dense.detection_figure(IMAGES[:0], {}, NAMES)


def _legend(figure: object) -> list[tuple[object, object]]:
    (legend,) = figure.legends  # type: ignore[attr-defined]
    return list(zip(legend.get_texts(), legend.get_patches()))


class TestDetection:
    truth = dense.Boxes(torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([2]))
    found = dense.Boxes(torch.tensor([[1.0, 2, 4, 6], [0, 0, 3, 3]]), torch.tensor([2, 0]), torch.tensor([0.9, 0.2]))

    def test_boxes_above_the_score(self) -> None:
        figure = dense.detection_figure(IMAGES, {"ANN": [self.found] * 2}, NAMES, [self.truth] * 2, score=0.5)
        boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
        assert sorted((*box.get_xy(), box.get_width(), box.get_height()) for box in boxes) == [
            (1, 2, 3, 4),
            (1, 2, 4, 4),
        ]
        assert [text.get_text() for text in figure.axes[0].texts] == ["car 0.90"]
        assert png(figure).startswith(b"\x89PNG")

    def test_one_entry_for_each_image(self) -> None:
        with pytest.raises(RobustSNNError, match="'ANN' has boxes of 1 images, there are 2"):
            dense.detection_figure(IMAGES, {"ANN": [self.found]}, NAMES)
        with pytest.raises(RobustSNNError, match="class 2; there are 1 names"):
            dense.detection_figure(IMAGES, {"ANN": [self.found] * 2}, ["cat"])


def test_scores_over_time() -> None:
    figure = dense.score_figure({"LTB": {8: 0.2, 32: 0.5}}, {"ANN": 0.6}, "mIoU")
    (axes,) = figure.axes
    assert [tuple(line.get_ydata()) for line in axes.lines] == [(0.2, 0.5), (0.6, 0.6)]
    assert axes.get_ylabel() == "mIoU"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "32"]
