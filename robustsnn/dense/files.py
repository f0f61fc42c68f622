"""Images with label maps or with Pascal-VOC boxes, read from folders into tensors of one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustsnn.dense.boxes import Boxes
from robustsnn.errors import RobustSNNError


def load_label_maps(images: Path, labels: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Photographs and their label maps, files of equal names in two folders, in the order of their names.

    Args:
        images: folder of PNG or JPEG files.
        labels: folder of PNG files whose pixels are class numbers.
        size: height and width to which both are resized (images by area, labels to the nearest).

    Returns:
        images ``[N, 3, H, W]`` in [0, 1] and labels ``[N, H, W]``.

    Raises:
        RobustSNNError: no files, a label map that is missing, unreadable, in colours, or of another size than its image.
    """
    pairs = []
    for file in _files(images):
        map_file = labels / f"{file.stem}.png"
        if not map_file.exists():
            raise RobustSNNError(f"the label map of {file.name} is missing: expected {map_file}")
        picture, label_map = _opened(file), _opened(map_file)
        if label_map.mode not in ("L", "P", "I", "I;16"):
            raise RobustSNNError(f"{map_file} has colours ({label_map.mode}); pixels must be class numbers")
        if label_map.size != picture.size:
            raise RobustSNNError(f"{map_file} is {label_map.size}, its image {picture.size}; they must be of one size")
        numbers = torch.from_numpy(np.array(label_map).astype(np.int64))
        pairs.append((_resized(picture, size), _nearest(numbers, size)))
    return torch.stack([image for image, _ in pairs]), torch.stack([numbers for _, numbers in pairs])


def load_voc_boxes(
    images: Path, annotations: Path, size: tuple[int, int], classes: Sequence[str]
) -> tuple[Tensor, list[Boxes]]:
    """Photographs and their boxes in Pascal VOC's XML, files of equal names in two folders, in the order of their names.

    Images are stretched to one size, and boxes with them. VOC counts pixels from 1 and includes the last one.

    Args:
        images: folder of PNG or JPEG files.
        annotations: folder of XML files.
        size: height and width of the images returned.
        classes: names in the order of their numbers.

    Returns:
        images ``[N, 3, H, W]`` in [0, 1] and `Boxes` for each.

    Raises:
        RobustSNNError: no files, an annotation that is missing or broken, a class that is not in ``classes``, or a box
            without area.
    """
    pictures, truth = [], []
    for file in _files(images):
        note = annotations / f"{file.stem}.xml"
        if not note.exists():
            raise RobustSNNError(f"the annotation of {file.name} is missing: expected {note}")
        picture = _opened(file)
        scale = (size[1] / picture.width, size[0] / picture.height)
        try:
            truth.append(_boxes(note, scale, classes))
        except (ElementTree.ParseError, TypeError, ValueError, AttributeError) as error:
            raise RobustSNNError(f"{note} is no Pascal VOC annotation: {error}") from error
        except RobustSNNError as error:
            raise RobustSNNError(f"{note}: {error}") from None
        pictures.append(_resized(picture, size))
    return torch.stack(pictures), truth


def _files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not found:
        raise RobustSNNError(f"there are no PNG or JPEG files in {folder}")
    return found


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except OSError as error:
        raise RobustSNNError(f"{file} cannot be read as an image: {error}") from error


def _resized(picture: Image.Image, size: tuple[int, int]) -> Tensor:
    height, width = size
    small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def _nearest(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (((torch.arange(wanted) + 0.5) * side / wanted).long() for wanted, side in zip(size, numbers.shape))
    return numbers[rows][:, columns]


def _boxes(note: Path, scale: tuple[float, float], classes: Sequence[str]) -> Boxes:
    corners, labels = [], []
    for thing in ElementTree.parse(note).getroot().findall("object"):
        name = thing.findtext("name") or ""
        if name not in classes:
            raise RobustSNNError(f"unknown class {name!r}; known: {', '.join(classes)}")
        x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
        corners.append([(x1 - 1) * scale[0], (y1 - 1) * scale[1], x2 * scale[0], y2 * scale[1]])
        labels.append(list(classes).index(name))
    return Boxes(torch.tensor(corners).view(-1, 4), torch.tensor(labels, dtype=torch.long))
