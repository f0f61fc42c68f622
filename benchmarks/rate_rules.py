"""How much faster than BPTT are the rules that replay one frame, and does their memory grow with T? One run, CPU, medians.

The network is 3-32-32-pool-64-64-pool-128-pool-FC10 with batch norm on 32x32 images. One call is logits and gradient at
the images. Memory is the peak of a process of its own for each rule and T, less what it had before its first call.

    python benchmarks/rate_rules.py [--repeats 7] [--batch 32] [--json FILE]
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
from torch import Tensor, nn  # noqa: E402

from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.gradients import BPTR, BPTT, CBA, HART, RGA, GradientRule  # noqa: E402
from robustsnn.neurons import IF, LIF  # noqa: E402

RULES: dict[str, Callable[[], GradientRule]] = {"BPTT": BPTT, "BPTR": BPTR, "RGA": RGA, "HART": HART, "CBA": CBA}
NEURONS: dict[str, Callable[[], nn.Module]] = {"IF": IF, "LIF": LIF}
LAYERS = (32, 32, "pool", 64, 64, "pool", 128, "pool")


def network(neuron: Callable[[], nn.Module], time_steps: int) -> SpikingClassifier:
    """The network, in evaluation mode, with batch norms that keep every layer active."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for layer in LAYERS:
        if isinstance(layer, str):
            layers.append(nn.AvgPool2d(2))
            continue
        layers += [nn.Conv2d(channels, layer, 3, padding=1, bias=False), nn.BatchNorm2d(layer), neuron()]
        channels = layer
    model = SpikingClassifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 10)), 2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.constant_(module.bias, 0.5)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.rand(4, 3, 32, 32))
    model.time_steps = time_steps
    return model.eval().requires_grad_(False)


def call(model: SpikingClassifier, rule: GradientRule, images: Tensor) -> Tensor:
    """One gradient at the images."""
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(model.through(rule)(leaf).square().sum(), leaf)[0]


def high_water() -> float:
    """Largest resident set of this process so far, in MiB (Linux); unlike ``ru_maxrss`` it knows nothing of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak(rule: str, neuron: str, time_steps: int, batch: int) -> float:
    """Growth of the resident set in MiB in two calls; for a process of its own."""
    model, images = network(NEURONS[neuron], time_steps), torch.rand(batch, 3, 32, 32)
    call(network(NEURONS[neuron], 2), RULES[rule](), images[:1])  # compiled loops and libraries are loaded
    before = high_water()
    for _ in range(2):
        call(model, RULES[rule](), images)
    return high_water() - before


def peaks(rule: str, neuron: str, batch: int, steps: tuple[int, ...]) -> list[float]:
    """`peak` at each number of steps, each in a process of its own."""
    found = []
    for time_steps in steps:
        command = [sys.executable, __file__, "--peak", rule, neuron, str(time_steps), "--batch", str(batch)]
        found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--channels-last", action="store_true", help="images with colours innermost in memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=3, metavar=("RULE", "NEURON", "T"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_allocator()
    if options.peak:
        rule, neuron, steps = options.peak
        print(peak(rule, neuron, int(steps), options.batch))
        return
    images = torch.rand(options.batch, 3, 32, 32)
    if options.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    print(
        f"batch {options.batch}, T={options.time_steps}, {threads} threads; one gradient call, median of {options.repeats}"
    )
    print(f"{'neuron':<8}{'rule':<8}{'seconds':>9}{'speed':>8}{'MiB T=4':>10}{'MiB T=32':>10}{'ratio':>8}")
    rows = []
    for name, neuron in NEURONS.items():
        model = network(neuron, options.time_steps)
        times: dict[str, list[float]] = {rule: [] for rule in RULES}
        for repeat in range(options.repeats + 1):  # the first round warms up
            for rule, build in RULES.items():
                start = time.perf_counter()
                call(model, build(), images)
                if repeat:
                    times[rule].append(time.perf_counter() - start)
        medians = {rule: statistics.median(found) for rule, found in times.items()}
        for rule, median in medians.items():
            few, many = peaks(rule, name, options.batch, (4, 32))
            speed = medians["BPTT"] / median
            print(f"{name:<8}{rule:<8}{median:>9.3f}{speed:>7.2f}x{few:>10.0f}{many:>10.0f}{many / few:>8.2f}")
            rows.append({"neuron": name, "rule": rule, "seconds": median, "speed": speed, "mib": [few, many]})
    if options.json:
        options.json.write_text(json.dumps({"environment": environment("cpu"), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
