"""Attack a SpikingJelly network of your own through two gradient rules, with our PGD and with torchattacks' if it is there.

python examples/attack_a_spikingjelly_network.py
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import robustsnn as rs


def your_network() -> nn.Module:
    """Any SpikingJelly network, here in multi-step mode: ``[T, N, 1, 8, 8]`` to ``[T, N, 10]``."""
    net = nn.Sequential(
        layer.Conv2d(1, 16, 3, padding=1),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(16 * 16, 10),
    )
    functional.set_step_mode(net, "m")
    return net


def main() -> None:
    """Train it for a moment, then attack it."""
    torch.manual_seed(0)
    data = rs.datasets.load("digits")
    model = rs.SpikingClassifier(your_network(), time_steps=8)
    rs.defenses.train(model, data.train, rs.defenses.CrossEntropy(), rs.defenses.TrainConfig(epochs=5))
    images, labels = data.test.batch(range(200))

    def accuracy(x: torch.Tensor) -> str:
        return f"{(model.reference(x).argmax(1) == labels).float().mean():.1%}"

    print("clean", accuracy(images))
    eps = 16 / 255
    print("random signs", accuracy(rs.attacks.SignNoise(model, eps)(images, labels)))
    for rule in (rs.gradients.BPTT(), rs.gradients.BPTT("triangle", alpha=0.5), rs.gradients.BPTR()):
        view = model.through(rule)
        print(rule, accuracy(rs.attacks.PGD(view, eps, steps=10)(images, labels)))
    try:
        import torchattacks
    except ImportError:
        return
    view = model.through(rs.gradients.BPTT())
    print("torchattacks.PGD", accuracy(torchattacks.PGD(view, eps=eps, alpha=eps / 4, steps=10)(images, labels)))


if __name__ == "__main__":
    main()
