"""PGD-10 on one and the same SpikingJelly network: torchattacks against robustsnn. One run, medians of repeats.

The network is the small CNN, trained for a few epochs on the embedded digits, as SpikingJelly modules in multi-step mode.
torchattacks gets it in the usual wrapper (reset, repeat the image, mean over time). Both attack without random start, so
that they compute the same thing.

    python benchmarks/attack_speed.py [--repeats 5] [--eps 16] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
import torchattacks  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.attacks import PGD  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.defenses import CrossEntropy, TrainConfig, build_model, train  # noqa: E402
from robustsnn.gradients import BPTR, BPTT  # noqa: E402
from robustsnn.models import ModelSpec  # noqa: E402

T = 8


class Logits(nn.Module):
    """The wrapper that users of torchattacks write for a SpikingJelly network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def spikingjelly_cnn(width: int = 16, hidden: int = 128) -> nn.Module:
    """The small CNN for 8x8 images as SpikingJelly modules in multi-step mode."""

    def node() -> nn.Module:
        return neuron.IFNode(surrogate_function=surrogate.PiecewiseQuadratic(1.0))

    net = nn.Sequential(
        layer.Conv2d(1, width, 3, padding=1, bias=False),
        layer.BatchNorm2d(width),
        node(),
        layer.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        layer.BatchNorm2d(2 * width),
        node(),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(2 * width * 16, hidden),
        node(),
        layer.Linear(hidden, 10),
    )
    functional.set_step_mode(net, "m")
    return net


def trained() -> tuple[nn.Module, SpikingClassifier, Tensor, Tensor]:
    """The SpikingJelly network, our network with the same weights, and the test images."""
    data = load("digits")
    ours = build_model(ModelSpec(image_shape=(1, 8, 8), num_classes=10, time_steps=T), seed=0)
    train(ours, data.train, CrossEntropy(), TrainConfig(epochs=10))
    theirs = spikingjelly_cnn()
    theirs.load_state_dict(ours.net.state_dict())
    images, labels = data.test.batch(slice(None))
    return theirs.eval(), ours.eval(), images, labels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--eps", type=float, default=16, help="in units of 1/255")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tune_allocator()
    net, native, images, labels = trained()
    eps = options.eps / 255
    settings = {"eps": eps, "alpha": eps / 4, "steps": 10, "random_start": False}
    wrapped = SpikingClassifier(net, T).eval()
    view = wrapped.through(BPTT())
    attacks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torchattacks": torchattacks.PGD(Logits(net).eval(), **settings),
        "robustsnn, same steps": PGD(view, early_stop=False, **settings),
        "robustsnn": PGD(view, **settings),
        "robustsnn, own layers": PGD(native, **settings),
        "robustsnn, BPTR": PGD(wrapped.through(BPTR()), **settings),
    }
    times: dict[str, list[float]] = {name: [] for name in attacks}
    robust: dict[str, float] = {}
    for repeat in range(options.repeats + 1):  # the first round warms up
        for name, attack in attacks.items():
            start = time.perf_counter()
            adversarial = attack(images, labels)
            if repeat:
                times[name].append(time.perf_counter() - start)
            robust[name] = float((wrapped.reference(adversarial).argmax(1) == labels).float().mean())
    clean = float((wrapped.reference(images).argmax(1) == labels).float().mean())
    base = statistics.median(times["torchattacks"])
    print(
        f"PGD-10, eps {options.eps:g}/255, T={T}, n={len(images)}, clean {clean:.1%}, {torch.get_num_threads()} threads"
    )
    print(f"{'attack':<24}{'seconds':>9}{'speed':>8}{'robust accuracy':>17}")
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:<24}{median:>9.3f}{base / median:>7.1f}x{robust[name]:>16.1%}")
        rows.append({"attack": name, "seconds": median, "ratio": base / median, "robust_accuracy": robust[name]})
    if options.json:
        record = {"n": len(images), "eps": eps, "clean": clean, "environment": environment("cpu"), "rows": rows}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
