"""PGD-10 on one and the same SpikingJelly VGG: torchattacks against robustsnn. One run, medians of interleaved repeats.

The network (conv 32-32-P-64-64-P-128-P-FC on 32 x 32 colour images, batch norm, LIF, T = 8) is trained for a minute and then
made of SpikingJelly modules in multi-step mode. torchattacks gets it in the usual wrapper (reset, repeat the image, mean
over time). All attack without random start, so "BPTT, same steps" computes what torchattacks computes; elsewhere samples
leave at their first success. Every result is judged by the plain model. Data: CIFAR-10 or any .npz of 32 x 32 colour images
if given, else made-up images that can be learned.

    python benchmarks/attack_speed.py [--dataset cifar10 --data-root DIR] [--eps 4] [--n 64] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
import torchattacks  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.attacks import PGD  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.datasets import ImageDataset, Split, load  # noqa: E402
from robustsnn.defenses import CrossEntropy, TrainConfig, train  # noqa: E402
from robustsnn.evaluation.statistics import rate  # noqa: E402
from robustsnn.gradients import BPTR, BPTT  # noqa: E402
from robustsnn.neurons import LIF  # noqa: E402

T, TRAINING_T = 8, 4
PLAN: tuple[int | str, ...] = (32, 32, "pool", 64, 64, "pool", 128, "pool")


class Logits(nn.Module):
    """The wrapper that users of torchattacks write for a SpikingJelly network."""

    def __init__(self, net: nn.Module, time_steps: int = T) -> None:
        super().__init__()
        self.net = net
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        """Mean over time of the outputs."""
        functional.reset_net(self.net)
        return self.net(x.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)).mean(0)


def vgg(kinds: object, node: Callable[[], nn.Module], plan: Sequence[int | str] = PLAN) -> nn.Sequential:
    """The network of the layers in ``kinds`` (torch.nn or SpikingJelly's ``layer``)."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in plan:
        if isinstance(entry, str):
            layers.append(kinds.AvgPool2d(2))
            continue
        layers += [kinds.Conv2d(channels, entry, 3, padding=1, bias=False), kinds.BatchNorm2d(entry), node()]
        channels = entry
    return nn.Sequential(*layers, kinds.Flatten(), kinds.Linear(channels * 16, 10))


def made_up(n_train: int = 2000, n_test: int = 500) -> ImageDataset:
    """Ten smooth patterns, each image one of them, faint, with a second one fainter on top and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(10, 3, 4, 4, generator=generator)
    patterns = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")

    def split(n: int) -> Split:
        labels, others = (torch.randint(10, (n,), generator=generator) for _ in range(2))
        strength = 0.25 + 0.15 * torch.rand(n, 1, 1, 1, generator=generator)
        x = 0.35 + strength * (patterns[labels] - 0.5) + 0.2 * (patterns[others] - 0.5)
        x = x + 0.05 * torch.randn(x.shape, generator=generator)
        return Split((x.clamp(0, 1) * 255).round().to(torch.uint8), labels)

    return ImageDataset("made-up", split(n_train), split(n_test), 10, tuple(str(k) for k in range(10)))


def trained(data: ImageDataset, images: int, plan: Sequence[int | str] = PLAN) -> nn.Module:
    """The SpikingJelly network; its weights are learned in a robustsnn network, in one epoch at half of T."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = vgg(nn, lambda: LIF(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True), plan)
    subset = Split(data.train.images[:images], data.train.labels[:images])
    config = TrainConfig(epochs=1, batch_size=32, lr=0.002, validation_fraction=0.0)
    train(SpikingClassifier(ours, TRAINING_T), subset, CrossEntropy(), config)
    theirs = vgg(layer, lambda: neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True), plan)
    functional.set_step_mode(theirs, "m")
    theirs.load_state_dict(ours.state_dict())
    return theirs.eval()


def recognised(net: nn.Module, images: Tensor, labels: Tensor, n: int, time_steps: int = T) -> tuple[Tensor, Tensor]:
    """The first n images that the network gets right: those that it gets wrong would make leaving early look better."""
    found: list[Tensor] = []
    model = SpikingClassifier(net, time_steps).eval()
    for first in range(0, len(images), 32):
        right = model.reference(images[first : first + 32]).argmax(1) == labels[first : first + 32]
        found += (right.nonzero()[:, 0] + first).unbind()
        if len(found) >= n:
            break
    chosen = torch.stack(found[:n])
    return images[chosen], labels[chosen]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="made-up", help="made-up, cifar10 or npz")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--training-images", type=int, default=2000)
    parser.add_argument("--n", type=int, default=64, help="test images, of those that the network gets right")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eps", type=float, default=4, help="in units of 1/255")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tune_allocator()
    data = made_up() if options.dataset == "made-up" else load(options.dataset, options.data_root)
    net = trained(data, options.training_images)
    images, labels = recognised(net, *data.test.batch(slice(None)), options.n)
    eps = options.eps / 255
    settings = {"eps": eps, "alpha": eps / 4, "steps": 10, "random_start": False}
    wrapped = SpikingClassifier(net, T).eval()
    view, rate_view = wrapped.through(BPTT()), wrapped.through(BPTR())
    last = wrapped.through(BPTT(), channels_last=True)
    attacks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "torchattacks": torchattacks.PGD(Logits(net).eval(), **settings),
        "BPTT, same steps": PGD(view, early_stop=False, **settings),
        "BPTT": PGD(view, **settings),
        "channels last, same steps": PGD(last, early_stop=False, **settings),
        "channels last": PGD(last, **settings),
        "BPTR, same steps": PGD(rate_view, early_stop=False, **settings),
        "BPTR": PGD(rate_view, **settings),
    }
    times: dict[str, list[float]] = {name: [] for name in attacks}
    correct: dict[str, int] = {}
    for attack in attacks.values():  # compile the loops, fill the caches
        attack(images[:8], labels[:8])
    for _ in range(options.repeats):
        for name, attack in attacks.items():
            start = time.perf_counter()
            adversarial = attack(images, labels)
            times[name].append(time.perf_counter() - start)
            correct[name] = int((wrapped.reference(adversarial).argmax(1) == labels).sum())
    n = len(images)
    base = statistics.median(times["torchattacks"])
    print(
        f"PGD-10 on {data.name}, eps {options.eps:g}/255, T={T}, n={n} images that the network gets right, "
        f"{torch.get_num_threads()} threads, median of {options.repeats}"
    )
    print(f"{'attack':<27}{'seconds':>9}{'speed':>8}  robust accuracy on the plain model")
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        robust = rate(correct[name], n)
        interval = f"{robust.value:.1%} [{robust.low:.1%}, {robust.high:.1%}]"
        print(f"{name:<27}{median:>9.2f}{base / median:>7.2f}x  {interval}")
        rows.append({"attack": name, "seconds": seconds, "ratio": base / median, "robust_accuracy": correct[name] / n})
    if options.json:
        record = {"data": data.name, "n": n, "eps": eps, "rows": rows}
        options.json.write_text(json.dumps(record | {"environment": environment("cpu")}, indent=2))


if __name__ == "__main__":
    main()
