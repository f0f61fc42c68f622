"""Square and FAB-T on one and the same SpikingJelly network: torchattacks against robustsnn. One run.

The network (conv 16-32, 128 hidden, IF neurons, T = 8) is trained on the embedded digits. Both sides get the same eps, number
of queries, steps and target classes, and both go on with samples only that they have not fooled yet.

    python benchmarks/query_attacks.py [--n 100] [--eps 24] [--queries 500] [--steps 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
import torchattacks  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.attacks.image.fab import FAB  # noqa: E402
from robustsnn.attacks.image.square import Square  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.datasets import Split, load  # noqa: E402
from robustsnn.defenses import CrossEntropy, TrainConfig, train  # noqa: E402
from robustsnn.gradients import BPTT  # noqa: E402

T = 8
Attack = Callable[[Tensor, Tensor], Tensor]


class Logits(nn.Module):
    """The wrapper that users of torchattacks write for a SpikingJelly network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def trained(split: Split) -> nn.Module:
    """A small convolutional network of SpikingJelly modules in multi-step mode."""

    def node() -> nn.Module:
        return neuron.IFNode(surrogate_function=surrogate.PiecewiseQuadratic(1.0), step_mode="m")

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *[layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16), node()],
            *[layer.Conv2d(16, 32, 3, padding=1, bias=False), layer.BatchNorm2d(32), node()],
            *[layer.AvgPool2d(2), layer.Flatten(), layer.Linear(512, 128), node(), layer.Linear(128, 10)],
        )
    functional.set_step_mode(net, "m")
    train(SpikingClassifier(net, T), split, CrossEntropy(), TrainConfig(epochs=5))
    return net.eval()


def compare(attacks: dict[str, dict[str, Attack]], model: SpikingClassifier, x: Tensor, y: Tensor) -> list[dict]:
    """Seconds and robust accuracy of each attack, ratios against the first of its kind; every side warms up first."""
    rows = []
    for kind, sides in attacks.items():
        base = None
        for name, attack in sides.items():
            attack(x[:4], y[:4])
            start = time.perf_counter()
            with torch.random.fork_rng():  # torchattacks seeds the global generator
                adversarial = attack(x, y)
            seconds = time.perf_counter() - start
            base = base or seconds
            robust = float((model.reference(adversarial).argmax(1) == y).float().mean())
            rows.append({"attack": f"{kind}, {name}", "seconds": seconds, "ratio": base / seconds, "robust": robust})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--eps", type=float, default=24, help="in units of 1/255")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20, help="of FAB, for each of 9 classes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tune_allocator()
    data = load("digits")
    net, eps = trained(data.train), options.eps / 255
    x, y = data.test.batch(slice(options.n))
    peer, wrapped = Logits(net).eval(), SpikingClassifier(net, T).eval()
    view = wrapped.through(BPTT())
    rows = compare(
        {
            "Square": {
                "torchattacks": torchattacks.Square(peer, eps=eps, n_queries=options.queries),
                "robustsnn": Square(view, eps, steps=options.queries),
            },
            "FAB-T": {
                "torchattacks": torchattacks.FAB(peer, eps=eps, steps=options.steps, multi_targeted=True, n_classes=10),
                "robustsnn": FAB(view, eps, steps=options.steps),
            },
        },
        wrapped,
        x,
        y,
    )
    print(f"eps {options.eps:g}/255, T={T}, n={len(x)}, {torch.get_num_threads()} threads")
    print(f"{'attack':<24}{'seconds':>9}{'speed':>8}{'robust accuracy':>17}")
    for row in rows:
        print(f"{row['attack']:<24}{row['seconds']:>9.1f}{row['ratio']:>7.1f}x{row['robust']:>16.1%}")
    if options.json:
        record = {"n": len(x), "eps": eps, "environment": environment("cpu"), "rows": rows}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
