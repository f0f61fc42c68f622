"""A simulated event camera: still images seen under three small saccades, as N-MNIST was recorded from a real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.events.batch import EventBatch
from robustsnn.events.stream import Sensor
from robustsnn.loops import compile_loop, run_loop

_UNIT = 1 << 16
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class SaccadeCamera:
    """An ideal event camera that looks at an image while it moves along a triangle: down and right, up and right, back left.

    The model, without noise and the same on every machine:

    * The image, ``scale`` sensor pixels to one of its own, is interpolated linearly; around it is black. Its upper left
      corner goes from ``(0, 0)`` through ``(reach / 2, reach)`` and ``(reach, 0)`` (x, y) back to ``(0, 0)``, ``saccade``
      microseconds each way, at constant speed; the triangle lies in the middle of the sensor.
    * A pixel sees the logarithm of intensity, ``log(I + dark)`` for I in [0, 1], sampled every ``frame`` microseconds and
      linear in between; it is held as whole multiples of ``threshold / 65,536``, so all that follows is exact.
    * It remembers a level, at first the whole multiple of ``threshold`` nearest to what it sees at time 0. Whenever what it
      sees is a whole ``threshold`` above (below) that level, there is an event with p = 1 (0), and the level moves there.

    Args:
        height: rows of the sensor.
        width: columns.
        scale: sensor pixels to a pixel of the image.
        reach: how far the image moves, in sensor pixels.
        threshold: of contrast, in units of the natural logarithm.
        dark: intensity added before the logarithm.
        saccade: microseconds of each of the three movements, a multiple of ``frame``.
        frame: microseconds between two samples.

    Raises:
        RobustSNNError: a number that is not positive, or a ``saccade`` that is no multiple of ``frame``.

    Source: the movement and its three times 100 ms, Orchard et al., 2015; the pixel, Lichtsteiner et al., "A 128x128 120 dB
    15 us Latency Asynchronous Temporal Contrast Vision Sensor", IEEE JSSC 2008, without its noise, delays and dead time.
    """

    height: int = 16
    width: int = 16
    scale: float = 1.5
    reach: float = 4.0
    threshold: float = 0.4
    dark: float = 0.1
    saccade: int = 100_000
    frame: int = 2_500

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = float if name in ("scale", "reach", "threshold", "dark") else int
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not 0 < value < 1e9:
                raise RobustSNNError(
                    f"{name} must be a positive {'number' if kind is float else 'whole number'}, got {value!r}"
                )
        if self.saccade % self.frame:
            raise RobustSNNError(f"saccade ({self.saccade} us) must be a multiple of frame ({self.frame} us)")

    @property
    def sensor(self) -> Sensor:
        """Size of the recordings."""
        return Sensor(self.height, self.width, 2)

    @property
    def duration(self) -> int:
        """Microseconds of a recording; every event lies before."""
        return 3 * self.saccade

    def record(self, images: np.ndarray) -> EventBatch:
        """One recording of each image.

        Args:
            images: ``[N, h, w]`` in [0, 1].

        Raises:
            RobustSNNError: another shape, or values outside of [0, 1].
        """
        pictures = np.asarray(images, dtype=np.float64)
        if pictures.ndim != 3 or not ((pictures >= 0) & (pictures <= 1)).all():
            raise RobustSNNError(
                f"images must be [N, h, w] in [0, 1], got shape {pictures.shape}; scale them, take one channel"
            )
        parts = [self._record(pictures[n : n + _IMAGES_AT_ONCE]) for n in range(0, len(pictures), _IMAGES_AT_ONCE)]
        columns = [np.concatenate(column) for column in zip(*parts)] or [np.empty(0, np.int64)] * 5
        offsets = np.concatenate([[0], np.cumsum(columns[4])]).astype(np.int64)
        return EventBatch(columns[0], columns[1], columns[2], columns[3], offsets, self.sensor)

    def levels(self, images: np.ndarray) -> np.ndarray:
        """What the pixels see, in ``threshold / 65,536``: ``[K + 1, N, H, W]`` int64 at times ``0, frame, ..., K frame``."""
        seen = []
        for x, y in self.path():
            rows = self._weights(self.height, images.shape[1], y)
            columns = self._weights(self.width, images.shape[2], x)
            seen.append(np.rint(np.log(rows @ images @ columns.T + self.dark) * (_UNIT / self.threshold)))
        return np.stack(seen).astype(np.int64)

    def path(self) -> np.ndarray:
        """Upper left corner of the image in sensor pixels from the triangle's, ``[K + 1, 2]`` as (x, y)."""
        corners = np.array([(0, 0), (self.reach / 2, self.reach), (self.reach, 0), (0, 0)])
        steps = self.saccade // self.frame
        part, rest = np.divmod(np.arange(3 * steps), steps)
        moving = corners[part] + (corners[part + 1] - corners[part]) * (rest / steps)[:, None]
        return np.concatenate([moving, corners[-1:]])

    def _weights(self, size: int, pixels: int, shift: float) -> np.ndarray:
        """How much of each pixel of the image a pixel of the sensor sees along one axis, ``[size, pixels]``."""
        start = (size - self.scale * pixels - self.reach) / 2 + shift
        places = (np.arange(size) + 0.5 - start) / self.scale - 0.5
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(pixels)))

    def _record(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Columns x, y, t and p of the events of some images, pixel after pixel, and the number of events of each."""
        levels = np.ascontiguousarray(self.levels(images).transpose(1, 2, 3, 0))
        none = np.empty(0, np.int64)
        counts = np.zeros(len(images), np.int64)
        run_loop(
            _FIRE, len(images), (levels, counts), (none, none, none, none, none, self.frame), work=levels.size, grain=1
        )
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        x, y, t, p = np.empty((4, first[-1]), np.int64)
        run_loop(_FIRE, len(images), (levels, counts), (first, x, y, t, p, self.frame), work=levels.size, grain=1)
        return x, y, t, p, counts


def _fire(
    levels: Any, counts: Any, start: int, stop: int, first: Any, x: Any, y: Any, t: Any, p: Any, frame: int
) -> None:
    """Count the events of images ``start`` to ``stop``, or, where ``first`` says where they go, write them."""
    for n in range(start, stop):
        place = first[n] if len(first) else 0
        begin = place
        for row in range(levels.shape[1]):
            for column in range(levels.shape[2]):
                seen = levels[n, row, column]
                level = (seen[0] + _UNIT // 2) // _UNIT * _UNIT
                for k in range(1, len(seen)):
                    while abs(seen[k] - level) >= _UNIT:
                        up = seen[k] > level
                        level += _UNIT if up else -_UNIT
                        if len(first):
                            done, whole = abs(level - seen[k - 1]), abs(seen[k] - seen[k - 1])
                            x[place], y[place], p[place] = column, row, up
                            t[place] = (k - 1) * frame + (done * frame + whole - 1) // whole - 1
                        place += 1
        counts[n] = place - begin


_FIRE = compile_loop(_fire)
