"""What does a training step cost (SR, AT, plain) against a straightforward one on SpikingJelly? One run, CPU, medians.

Both sides have the same layers, weights and batch and do the same algorithm; `plain_step`, `sr_step` and `at_step` are the
straightforward ones, on a multi-step network. Before anything is timed, losses and gradients at the weights are compared, in
double and in single precision. Steps alternate between the sides. Memory is the peak of a process of its own for each, less
what it had before the first step of that size.

    python benchmarks/sr_step.py [--repeats 5] [--batch 32] [--steps sr at plain] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.defenses import AT, SR, CrossEntropy, Objective  # noqa: E402
from robustsnn.neurons import IF, LIF  # noqa: E402

T, CLASSES = 8, 10
LAM, H, EPS, ATTACK_STEPS = 0.002, 0.01, 8 / 255, 7
ALPHA = 2.5 * EPS / ATTACK_STEPS
PLANS: dict[str, tuple[tuple[int | str, ...], tuple[int, ...]]] = {
    "small VGG": ((32, 32, "pool", 64, 64, "pool", 128, "pool"), ()),
    "VGG-11 / 4": ((16, "pool", 32, 64, "pool", 128, 128, 128, "pool", 128, 128), (1024, 1024)),
}
"""Convolutions and pools, hidden linear layers; the second is the VGG-11 of the literature at a quarter of its width."""
NODES: dict[str, tuple[type[neuron.BaseNode], type[neuron.BaseNode], type]] = {
    "LIF, ATan": (neuron.LIFNode, LIF, surrogate.ATan),
    "IF, triangle": (neuron.IFNode, IF, surrogate.PiecewiseQuadratic),
}
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "sr": lambda: SR(LAM, H),
    "at": lambda: AT(EPS, ATTACK_STEPS, ALPHA, random_start=False),
    "plain": CrossEntropy,
}
Step = Callable[[Tensor, Tensor], float]


def network(
    kinds: object, node: Callable[[], nn.Module], plan: str, image: tuple[int, int, int] = (3, 32, 32)
) -> nn.Sequential:
    """The network of the layers in ``kinds`` (torch.nn or SpikingJelly's ``layer``), every layer of it active."""
    convolutions, hidden = PLANS[plan]
    layers: list[nn.Module] = []
    channels, *size = image
    for entry in convolutions:
        if isinstance(entry, str):
            layers.append(kinds.AvgPool2d(2))
            size = [side // 2 for side in size]
            continue
        norm = kinds.BatchNorm2d(entry)
        nn.init.constant_(norm.bias, 0.5)
        layers += [kinds.Conv2d(channels, entry, 3, padding=1, bias=False), norm, node()]
        channels = entry
    layers.append(kinds.Flatten())
    units = channels * size[0] * size[1]
    for entry in hidden:
        linear = kinds.Linear(units, entry)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.constant_(linear.bias, 0.5)
        layers += [linear, node()]
        units = entry
    return nn.Sequential(*layers, kinds.Linear(units, CLASSES))


def pair(plan: str, node: str) -> tuple[nn.Module, SpikingClassifier]:
    """The network of SpikingJelly in multi-step mode and ours, with equal weights, in training mode."""
    their_node, our_node, slope = NODES[node]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = network(nn, lambda: our_node(surrogate_function=slope()), plan)
    theirs = network(layer, lambda: their_node(surrogate_function=slope()), plan)
    functional.set_step_mode(theirs, "m")
    theirs.load_state_dict(ours.state_dict())
    return theirs.train(), SpikingClassifier(ours, T).train()


def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """Logits ``[N, K]``: reset, repeat the image, mean over time."""
    functional.reset_net(net)
    return net(images.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def plain_step(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(logits_of(net, images), labels)


def sr_step(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy and the SR penalty (Liu et al., ICML 2024)."""
    images = images.clone().requires_grad_()
    logits = logits_of(net, images)
    rivals = logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)

    def confidence(z: Tensor) -> Tensor:
        return torch.sigmoid((z.gather(1, labels[:, None]) - z.gather(1, rivals[:, None]))[:, 0])

    before = confidence(logits)
    (gradient,) = torch.autograd.grad(before.sum(), images, retain_graph=True)
    after = confidence(logits_of(net, images.detach() + H * gradient.sign()))
    return F.cross_entropy(logits, labels) + LAM * ((after - before) / H).square().mean()


def at_step(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy on examples of PGD in evaluation mode."""
    net.eval()
    adversarial = images.clone()
    for _ in range(ATTACK_STEPS):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(net, adversarial), labels), adversarial)
        moved = adversarial.detach() + ALPHA * gradient.sign()
        adversarial = moved.clamp(images - EPS, images + EPS).clamp(0, 1)
    net.train()
    return plain_step(net, adversarial, labels)


THEIRS = {"sr": sr_step, "at": at_step, "plain": plain_step}


def steps(name: str, theirs: nn.Module, ours: nn.Module) -> dict[str, Step]:
    """One step of the optimiser on either side, giving the loss."""
    objective = OBJECTIVES[name]()

    def of(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def step(images: Tensor, labels: Tensor) -> float:
            loss = loss_of(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    return {
        "SpikingJelly": of(theirs, lambda x, y: THEIRS[name](theirs, x, y)),
        "robustsnn": of(ours, lambda x, y: objective(ours, x, y).total),
    }


def difference(name: str, plan: str, node: str, dtype: torch.dtype, n: int = 8) -> tuple[float, float]:
    """Relative difference of the losses, and of the gradients at all weights in the l2 norm."""
    theirs, ours = (model.to(dtype) for model in pair(plan, node))
    images, labels = batch(n)
    expected = THEIRS[name](theirs, images.to(dtype), labels)
    found = OBJECTIVES[name]()(ours, images.to(dtype), labels).total
    found.backward()
    expected.backward()
    g, h = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (theirs, ours))
    return abs(found.item() / expected.item() - 1), ((g - h).norm() / g.norm()).item()


def batch(n: int) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 32, 32, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def high_water() -> float:
    """Largest resident set of this process so far, in MiB (Linux); unlike ``ru_maxrss`` it knows nothing of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak(side: str, name: str, plan: str, node: str, n: int) -> float:
    """Growth of the resident set in MiB in two steps; for a process of its own."""
    step = steps(name, *pair(plan, node))[side]
    step(*batch(2))  # compiled loops and libraries are loaded
    before = high_water()
    for _ in range(2):
        step(*batch(n))
    return high_water() - before


def peak_elsewhere(*arguments: object) -> float:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--nodes", nargs="+", choices=list(NODES), default=list(NODES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=5, metavar=("SIDE", "STEP", "PLAN", "NODE", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_allocator()
    if options.peak:
        *what, n = options.peak
        print(peak(*what, int(n)))
        return
    print(
        f"batch {options.batch} of 32 x 32 colour images, T={T}, {torch.get_num_threads()} threads; one step of the "
        f"optimiser, median of {options.repeats}"
    )
    print("differences are relative, of the loss and of the gradient at all weights, in float64 and in float32")
    print(
        f"{'network':<12}{'neurons':<14}{'step':<7}{'s theirs':>9}{'s ours':>8}{'ratio':>7}{'MiB theirs':>12}{'MiB ours':>10}"
        f"{'ratio':>7}  differences"
    )
    rows = []
    images, labels = batch(options.batch)
    for plan in options.plans:
        for node in options.nodes:
            for name in options.steps:
                differences = [difference(name, plan, node, dtype) for dtype in (torch.float64, torch.float32)]
                assert max(differences[0]) < 1e-6, f"not the same algorithm: {differences}"
                sides = steps(name, *pair(plan, node))
                times: dict[str, list[float]] = {side: [] for side in sides}
                for repeat in range(options.repeats + 1):  # the first round warms up
                    for side, step in sides.items():
                        start = time.perf_counter()
                        step(images, labels)
                        if repeat:
                            times[side].append(time.perf_counter() - start)
                seconds = {side: statistics.median(found) for side, found in times.items()}
                mib = {side: peak_elsewhere(side, name, plan, node, options.batch) for side in sides}
                ratios = [found["robustsnn"] / found["SpikingJelly"] for found in (seconds, mib)]
                shown = ", ".join(f"{loss:.0e} {gradient:.0e}" for loss, gradient in differences)
                print(
                    f"{plan:<12}{node:<14}{name:<7}{seconds['SpikingJelly']:>9.2f}{seconds['robustsnn']:>8.2f}"
                    f"{ratios[0]:>6.2f}x{mib['SpikingJelly']:>12.0f}{mib['robustsnn']:>10.0f}{ratios[1]:>6.2f}x  {shown}",
                    flush=True,
                )
                rows.append(
                    {"network": plan, "neurons": node, "step": name, "seconds": seconds, "mib": mib}
                    | {"differences": differences}
                )
    if options.json:
        record = {"batch": options.batch, "time_steps": T, "rows": rows, "environment": environment("cpu")}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
