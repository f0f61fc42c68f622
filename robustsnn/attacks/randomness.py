"""Random numbers that belong to an image: they do not depend on its place in a batch, on its mates or on other calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[torch.Generator], Tensor]


def per_image(images: Tensor, seed: int, stream: int, draw: Callable[..., Tensor] = torch.rand) -> Tensor:
    """Random numbers of the shape, type and device of ``images``, each image from a generator of its own.

    The generator is seeded by the image's content, ``seed`` and ``stream`` (a restart, say), so results depend neither on
    batch size nor on order, and torch's global generator is left alone. Equal images get equal numbers.

    Args:
        images: ``[N, ...]``.
        seed: of the attack.
        stream: tells apart several draws for the same image.
        draw: ``torch.rand`` (uniform on [0, 1)) or ``torch.randn``.
    """
    contents = images.detach().cpu().contiguous().numpy()
    numbers = torch.empty(images.shape, dtype=images.dtype)
    salt = f"{seed}:{stream}".encode()
    for index, content in enumerate(contents):
        digest = hashlib.blake2b(content.tobytes(), digest_size=8, salt=salt[:16].ljust(16, b"\0")).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        numbers[index] = draw(content.shape, generator=generator, dtype=images.dtype)
    return numbers.to(images.device)
