"""An ordinary network as an image classifier, with its normalisation inside: the ANN beside every SNN."""

from __future__ import annotations

from torch import Tensor, nn

from robustsnn.pixels import Normalize, NormalizedModel


class AnnClassifier(NormalizedModel):
    """``net`` on normalised images: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.

    Args:
        net: any network without time.
        normalize: ``(mean, std)`` per channel, or None.

    Raises:
        RobustSNNError: a bad ``normalize``.
    """

    def __init__(self, net: nn.Module, normalize: Normalize | None = None) -> None:
        super().__init__(normalize)
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``."""
        return self.net(self.normalized(images, images))
