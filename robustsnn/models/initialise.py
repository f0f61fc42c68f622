"""Weight initialisation shared by the models."""

from __future__ import annotations

from torch import nn


def kaiming_fan_out(net: nn.Module) -> None:
    """He initialisation over the fan-out for convolutions and linear layers, zero biases; batch norm stays as made."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
