"""How much faster is a robustsnn neuron than SpikingJelly's multi-step node on the CPU? One run, medians of repeats.

python benchmarks/neuron_speed.py [--repeats 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
from spikingjelly.activation_based import neuron, surrogate  # noqa: E402

from robustsnn.neurons import IF, LIF  # noqa: E402

SHAPE = (8, 32, 32, 32, 32)
CASES = {
    "LIF, ATan": (neuron.LIFNode, LIF, surrogate.ATan),
    "LIF, Sigmoid": (neuron.LIFNode, LIF, surrogate.Sigmoid),
    "IF, PiecewiseQuadratic": (neuron.IFNode, IF, surrogate.PiecewiseQuadratic),
}


def once(node: neuron.BaseNode, x: torch.Tensor, grad: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of one forward and one backward."""
    node.reset()
    x = x.detach().requires_grad_()
    start = time.perf_counter()
    spikes = node(x)
    middle = time.perf_counter()
    torch.autograd.grad(spikes, x, grad)
    return (middle - start) * 1e3, (time.perf_counter() - middle) * 1e3


def check_equal(theirs: neuron.BaseNode, ours: neuron.BaseNode, x: torch.Tensor, grad: torch.Tensor) -> None:
    """Both must give the same spikes and gradients, or their times cannot be compared."""
    results = []
    for node in (theirs, ours):
        node.reset()
        leaf = x.detach().requires_grad_()
        spikes = node(leaf)
        results.append((spikes.detach(), torch.autograd.grad(spikes, leaf, grad)[0]))
    assert torch.equal(results[0][0], results[1][0]), "spikes differ"
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tuned = tune_allocator()
    torch.manual_seed(0)
    x, grad = torch.randn(SHAPE) + 0.3, torch.randn(SHAPE)
    rows = []
    print(
        f"{list(SHAPE)} float32, {torch.get_num_threads()} threads, allocator tuned: {tuned}; ms, median of {options.repeats}"
    )
    print(f"{'case':<24}{'SpikingJelly':>18}{'robustsnn':>18}{'ratio':>8}")
    for name, (their_class, our_class, slope) in CASES.items():
        theirs = their_class(step_mode="m", surrogate_function=slope())
        ours = our_class(step_mode="m", surrogate_function=slope())
        check_equal(theirs, ours, x, grad)
        times: dict[str, list[tuple[float, float]]] = {"theirs": [], "ours": []}
        for _ in range(options.repeats):
            times["theirs"].append(once(theirs, x, grad))
            times["ours"].append(once(ours, x, grad))
        forward = {k: statistics.median(t[0] for t in v) for k, v in times.items()}
        backward = {k: statistics.median(t[1] for t in v) for k, v in times.items()}
        total = {k: statistics.median(sum(t) for t in v) for k, v in times.items()}
        ratio = total["theirs"] / total["ours"]
        shown = {k: f"{forward[k]:.1f} + {backward[k]:.1f}" for k in times}
        print(f"{name:<24}{shown['theirs']:>18}{shown['ours']:>18}{ratio:>7.1f}x")
        rows.append({"case": name, "forward_ms": forward, "backward_ms": backward, "ratio": ratio})
    if options.json:
        record = {"shape": SHAPE, "repeats": options.repeats, "environment": environment("cpu"), "rows": rows}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
