"""Attack a Norse network through its own gradient; ``build`` also feeds the command line.

python examples/attack_a_norse_network.py
robustsnn evaluate examples/attack_a_norse_network.py:build
"""

from __future__ import annotations

import norse.torch as norse
import torch
from torch import nn

import robustsnn as rs


def your_network() -> nn.Module:
    """Any Norse network of cells: one step ``(x, state) -> (out, state)``, ``[N, 1, 8, 8]`` to ``[N, 10]``."""
    neurons = norse.LIFParameters(v_th=torch.tensor(0.25), alpha=torch.tensor(20.0))
    return norse.SequentialState(
        nn.Conv2d(1, 16, 3, padding=1),
        norse.LIFCell(neurons),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
        norse.LICell(),
    )


def build() -> rs.SpikingClassifier:
    """The network, wrapped and trained for a moment; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = rs.SpikingClassifier(your_network(), time_steps=12, readout="last")
    data = rs.datasets.load("digits")
    rs.defenses.train(model, data.train, rs.defenses.CrossEntropy(), rs.defenses.TrainConfig(epochs=5))
    return model.eval()


def main() -> None:
    """Train it, look for what would make its numbers wrong, attack it."""
    model = build()
    images, labels = rs.datasets.load("digits").test.batch(range(200))
    print(rs.self_test(model, images, labels))

    def accuracy(x: torch.Tensor) -> str:
        return f"{(model.reference(x).argmax(1) == labels).float().mean():.1%}"

    print("clean", accuracy(images))
    for eps in (8 / 255, 16 / 255, 32 / 255):
        noise = rs.attacks.SignNoise(model, eps)(images, labels)
        print(f"eps {255 * eps:.0f}/255: random signs", accuracy(noise), end=", ")
        print("PGD-10", accuracy(rs.attacks.PGD(model, eps, steps=10)(images, labels)))


if __name__ == "__main__":
    main()
