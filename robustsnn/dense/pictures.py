"""Pictures of dense outputs: label maps laid over photographs, boxes drawn on them, and scores against T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from robustsnn.dense.boxes import Boxes
from robustsnn.errors import RobustSNNError
from robustsnn.report.style import INK, MARKERS, MUTED, SERIES, new_figure, styled

_COLOURS = (
    *("#56b4e9", "#b8785a", "#e69f00", "#7f7f8f", "#f0a3c0", "#2e8b57"),
    *("#f0e442", "#8c564b", "#d62728", "#5b4bb3", "#0b1fa5", "#17becf"),
)
_IGNORED = "#000000"


def segmentation_figure(
    images: Tensor,
    maps: Mapping[str, Tensor],
    class_names: Sequence[str],
    ignore_index: int | None = None,
    opacity: float = 0.6,
    titles: Sequence[str] = (),
) -> Figure:
    """A row for each image, beginning with the photograph, then each label map laid over it, with a legend of classes.

    Args:
        images: ``[N, 3, H, W]`` (or grey, ``[N, 1, H, W]``) in [0, 1].
        maps: title of a column to class numbers ``[N, H, W]``; of logits give ``argmax(1)``.
        class_names: names in the order of their numbers.
        ignore_index: label of pixels that do not count, left black.
        opacity: of the map over the photograph.
        titles: of the rows.

    Raises:
        RobustSNNError: a map of another size than the images, or with an unknown class.
    """
    colours = _palette(len(class_names))
    with styled():
        figure, axes = _grid(images, ["image", *maps], titles)
        for row, image in enumerate(images):
            axes[row, 0].imshow(_shown(image))
            for column, (title, numbers) in enumerate(maps.items(), 1):
                _check_map(title, numbers, images, len(class_names), ignore_index)
                layer = _coloured(numbers[row], colours, ignore_index)
                axes[row, column].imshow(opacity * layer + (1 - opacity) * _shown(image))
        handles = [Patch(color=colour, label=name) for colour, name in zip(_hex(len(class_names)), class_names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def detection_figure(
    images: Tensor,
    found: Mapping[str, Sequence[Boxes]],
    class_names: Sequence[str],
    truth: Sequence[Boxes] | None = None,
    score: float = 0.3,
    titles: Sequence[str] = (),
    shown_on: Mapping[str, Tensor] | None = None,
) -> Figure:
    """A row for each image and a column for each model, with the boxes found drawn solid and true ones dashed.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1].
        found: title of a column to the boxes of each image.
        class_names: names in the order of their numbers.
        truth: drawn dashed in white in every column, or None.
        score: boxes below it are left out.
        titles: of the rows.
        shown_on: other images for some columns, e.g. perturbed ones.

    Raises:
        RobustSNNError: not one entry for each image.
    """
    for title, boxes in {**found, **({"truth": truth} if truth is not None else {})}.items():
        if len(boxes) != len(images):
            raise RobustSNNError(
                f"{title!r} has boxes of {len(boxes)} images, there are {len(images)}; give one for each"
            )
    with styled():
        figure, axes = _grid(images, list(found), titles)
        for column, (title, boxes) in enumerate(found.items()):
            behind = (shown_on or {}).get(title, images)
            for row in range(len(images)):
                axes[row, column].imshow(_shown(behind[row]))
                for corners in truth[row].corners.tolist() if truth is not None else ():
                    _box(axes[row, column], corners, "white", "--")
                _draw(axes[row, column], boxes[row].above(score), class_names)
    return figure


def score_figure(curves: Mapping[str, Mapping[int, float]], limits: Mapping[str, float], label: str) -> Figure:
    """A score over the number of steps, one curve a model, with the ANN's score as a dashed line.

    Args:
        curves: name to {T: score}.
        limits: name to a score that does not depend on T.
        label: of the score.
    """
    with styled():
        figure = new_figure(3.2, narrow=True)
        axes = figure.add_subplot()
        for place, (name, curve) in enumerate(curves.items()):
            look: dict[str, Any] = {"color": SERIES[place % len(SERIES)], "marker": MARKERS[place % len(MARKERS)]}
            axes.plot(list(curve), list(curve.values()), label=name, **look)
        for name, limit in limits.items():
            axes.axhline(limit, color=MUTED, linestyle="--", linewidth=1, label=name)
        ticks = sorted({steps for curve in curves.values() for steps in curve})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(steps) for steps in ticks])
        axes.set_xlabel("time steps T")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend()
    return figure


def _grid(images: Tensor, columns: Sequence[str], titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    if not len(images) or not columns:
        raise RobustSNNError("there is nothing to draw; give at least one image and one column")
    height, width = images.shape[2:]
    figure = new_figure(10 / len(columns) * height / width * len(images) + 0.7, narrow=False)
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for each in axes.flat:
        each.set_xticks([])
        each.set_yticks([])
        each.grid(False)
        for spine in each.spines.values():
            spine.set_visible(False)
    for each, title in zip(axes[0], columns):
        each.set_title(title)
    for each, title in zip(axes[:, 0], titles):
        each.set_ylabel(title)
    return figure, axes


def _shown(image: Tensor) -> np.ndarray:
    picture = image.detach().float().cpu().clamp(0, 1)
    return picture.expand(3, -1, -1).permute(1, 2, 0).numpy()  # type: ignore[no-any-return]


def _hex(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def _palette(count: int) -> Tensor:
    rows = [[int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)] for colour in (*_hex(count), _IGNORED)]
    return torch.tensor(rows)


def _coloured(numbers: Tensor, colours: Tensor, ignore_index: int | None) -> np.ndarray:
    numbers = numbers.cpu().long()
    if ignore_index is not None:
        numbers = numbers.where(numbers != ignore_index, len(colours) - 1)
    return colours[numbers].numpy()  # type: ignore[no-any-return]


def _check_map(title: str, numbers: Tensor, images: Tensor, classes: int, ignore_index: int | None) -> None:
    wanted = [len(images), *images.shape[2:]]
    if list(numbers.shape) != wanted:
        raise RobustSNNError(f"the map {title!r} must have shape {wanted}, got {list(numbers.shape)}")
    unknown = (numbers < 0) | (numbers >= classes)
    unknown &= numbers != (-1 if ignore_index is None else ignore_index)
    if unknown.any():
        raise RobustSNNError(f"the map {title!r} has the class {int(numbers[unknown][0])}; there are {classes} names")


def _draw(axes: object, boxes: Boxes, class_names: Sequence[str]) -> None:
    scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores
    for corners, number, score in zip(boxes.corners.tolist(), boxes.classes.tolist(), scores.tolist()):
        if number >= len(class_names):
            raise RobustSNNError(f"a box has the class {number}; there are {len(class_names)} names")
        colour = SERIES[(number + 1) % len(SERIES)]
        _box(axes, corners, colour, "-")
        text = f"{class_names[number]} {score:.2f}"
        style = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
        x, y = corners[:2]
        axes.text(x + 2, y + 2, text, color=INK, fontsize=7, va="top", bbox=style, clip_on=True)  # type: ignore[attr-defined]


def _box(axes: object, corners: Sequence[float], colour: str, line: str) -> None:
    x1, y1, x2, y2 = corners
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=1.6)
    axes.add_patch(patch)  # type: ignore[attr-defined]
