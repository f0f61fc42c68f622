"""A small convolutional network for images of 8x8 to 28x28 pixels."""

from __future__ import annotations

from torch import nn

from robustsnn.models.neuron_spec import NeuronFactory


def cnn(
    image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, width: int = 16, hidden: int = 128
) -> nn.Sequential:
    """Two 3x3 convolutions (``width``, ``2 width`` channels) with batch norm, average pooling, two linear layers.

    Images of at least 16 pixels are pooled after the first convolution too. ``neuron()`` makes each non-linearity, so
    the same network with activations is the ANN.
    """
    channels, height, size = image_shape
    pool_first = min(height, size) >= 16
    pooled = 4 if pool_first else 2
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        neuron(),
        *([nn.AvgPool2d(2)] if pool_first else []),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        neuron(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (height // pooled) * (size // pooled), hidden),
        neuron(),
        nn.Linear(hidden, num_classes),
    )
