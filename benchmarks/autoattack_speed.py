"""SpikingAutoAttack against torchattacks' AutoAttack with the official 100 steps, on one and the same SpikingJelly network.

The network is `attack_speed`'s at half the width, trained for a minute; torchattacks gets it in the usual wrapper, and its
members are set to 100 steps (its own default is 10). Every result is judged by the plain model.

    python benchmarks/autoattack_speed.py [--dataset npz --data-root FILE] [--eps 4] [--n 24]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from robustsnn.runtime import prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
import torchattacks  # noqa: E402
from attack_speed import Logits, made_up, recognised, trained  # noqa: E402

from robustsnn.attacks import SpikingAutoAttack  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.evaluation.statistics import rate  # noqa: E402

T = 4
PLAN = (16, 16, "pool", 32, 32, "pool", 64, "pool")


def official(model: torch.nn.Module, eps: float) -> torchattacks.AutoAttack:
    """torchattacks' AutoAttack as its authors meant it."""
    attack = torchattacks.AutoAttack(model, norm="Linf", eps=eps, version="standard", n_classes=10, seed=0)
    for member in attack._autoattack.attacks:
        if hasattr(member, "steps"):
            member.steps = 100
    return attack


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="made-up", help="made-up, cifar10 or npz")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--training-images", type=int, default=2000)
    parser.add_argument("--n", type=int, default=24, help="test images, of those that the network gets right")
    parser.add_argument("--eps", type=float, default=4, help="in units of 1/255")
    options = parser.parse_args()
    tune_allocator()
    data = made_up() if options.dataset == "made-up" else load(options.dataset, options.data_root)
    net = trained(data, options.training_images, PLAN)
    images, labels = recognised(net, *data.test.batch(slice(None)), options.n, T)
    model, eps = SpikingClassifier(net, T).eval(), options.eps / 255
    attacks = {
        **{preset: SpikingAutoAttack(model, eps=eps, preset=preset) for preset in ("quick", "standard")},
        "torchattacks' AutoAttack": official(Logits(net, T).eval(), eps),
    }
    print(f"{data.name}, eps {options.eps:g}/255, T={T}, n={len(images)}, {torch.get_num_threads()} threads")
    seconds: dict[str, float] = {}
    for name, attack in attacks.items():
        started = time.perf_counter()
        adversarial = attack(images, labels)
        seconds[name] = time.perf_counter() - started
        share = rate(int((model.reference(adversarial).argmax(1) == labels).sum()), len(images))
        print(
            f"{name:<26}{seconds[name]:>8.1f} s   robust {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]",
            flush=True,
        )
    base = seconds["torchattacks' AutoAttack"]
    print(f"standard is {base / seconds['standard']:.1f}x as fast, quick {base / seconds['quick']:.1f}x")


if __name__ == "__main__":
    main()
