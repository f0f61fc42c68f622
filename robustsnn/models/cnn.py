"""A small convolutional network for images of 8x8 to 28x28 pixels."""

from __future__ import annotations

from torch import nn

from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import whole
from robustsnn.models.pools import halve
from robustsnn.models.stages import conv3x3


def cnn(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: int = 16,
    hidden: int = 128,
    pool: str = "avg",
) -> nn.Sequential:
    """Two 3x3 convolutions (``width``, ``2 width`` channels) with norm, pooling (``avg`` or ``max``), two linear layers.

    Images of at least 16 pixels are pooled after the first convolution too. ``neuron()`` makes each non-linearity, so
    the same network with activations is the ANN.
    """
    channels, height, size = image_shape
    width, hidden = whole("width", width), whole("hidden", hidden)
    pool_first: list[nn.Module] = []
    if min(height, size) >= 16:
        pool_first, height, size = halve(pool, height, size)
    pool_second, height, size = halve(pool, height, size)
    return nn.Sequential(
        conv3x3(channels, width, norms),
        norms(width),
        neuron(),
        *pool_first,
        conv3x3(width, 2 * width, norms),
        norms(2 * width),
        neuron(),
        *pool_second,
        nn.Flatten(),
        nn.Linear(2 * width * height * size, hidden),
        neuron(),
        nn.Linear(hidden, num_classes),
    )
