"""Random numbers that belong to an image: whatever its place in a batch, its mates there and other calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[torch.Generator], Tensor]


def per_image(images: Tensor, seed: int, stream: int, draw: Callable[..., Tensor] = torch.rand) -> Tensor:
    """Random numbers of the shape, type and device of ``images``, each image from a generator of its own.

    The generator is seeded by the image's content, ``seed`` and ``stream`` (a restart, say), so results depend neither
    on batch size nor on order, and torch's global generator is left alone. Equal images get equal numbers.

    Args:
        images: ``[N, ...]``.
        seed: of the attack.
        stream: tells apart several draws for the same image.
        draw: ``torch.rand`` (uniform on [0, 1)) or ``torch.randn``.
    """
    numbers = torch.empty(images.shape, dtype=images.dtype)
    for index, generator in enumerate(generators(images, seed, stream)):
        numbers[index] = draw(images.shape[1:], generator=generator, dtype=images.dtype)
    return numbers.to(images.device)


def generators(images: Tensor, seed: int, stream: int) -> list[torch.Generator]:
    """One CPU generator for each image, seeded as in `per_image`: for attacks that draw again at every step."""
    contents = images.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    key = hashlib.blake2b(f"{seed}:{stream}".encode()).digest()
    digests = (hashlib.blake2b(content.tobytes(), digest_size=8, key=key).digest() for content in contents)
    return [torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1) for digest in digests]
