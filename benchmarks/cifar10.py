"""CIFAR-10 with VGG-11, the work that wants a GPU: plain, SR, AT, SR + AT, QCFS. Stops in time and goes on when called again.

python benchmarks/cifar10.py --data-root DIR --device cuda --seconds 570 --out out/cifar10
python benchmarks/cifar10.py --small --seconds 60          # the same path in small, on the CPU, on made-up images
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from robustsnn.runtime import prepare_process, tune_allocator

prepare_process()

import numpy as np  # noqa: E402

from robustsnn.evaluation import BenchmarkConfig, Progress, main_job, parse_config, run_benchmark  # noqa: E402
from robustsnn.files import writable_folder  # noqa: E402


class Deadline(Progress):
    """Interrupts the run when its time is over; what is finished is kept."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def start(self, stage: str, total: float) -> None:
        """Say which stage begins."""
        print(f"{time.strftime('%H:%M:%S')} {stage}", flush=True)

    def advance(self, units: float, detail: str = "") -> None:
        """Stop if it is time."""
        if time.monotonic() > self.until:
            raise KeyboardInterrupt


def full_size(device: str) -> dict[str, Any]:
    """The main job for CIFAR-10, with adversarial training and the ensemble beside it."""
    content = main_job("cifar10", device=device).model_dump(mode="json")
    plain, sr = content["models"][:2]
    at = "at(eps=2/255, alpha=1/255, steps=2)"
    content["models"][2:2] = [
        plain | {"name": "at", "title": "AT 2/255", "objective": at},
        sr | {"name": "sr-at", "title": "SR + AT 2/255", "objective": f"sr(lam=0.002) + {at}", "objective_options": {}},
    ]
    content["attacks"] = [*content["attacks"], {"name": "ensemble-standard", "title": "ensemble", "params": {}}]
    return content


def small(folder: Path) -> BenchmarkConfig:
    """The same shrunk to seconds: narrow network, one epoch, made-up images, no ensemble."""
    generator = np.random.default_rng(0)
    file = writable_folder(folder) / "made-up.npz"
    if not file.exists():
        arrays = {
            f"{kind}_{part}": generator.integers(
                0, 256 if kind == "x" else 10, (n, *([32, 32, 3] if kind == "x" else []))
            )
            for part, n in (("train", 64), ("test", 16))
            for kind in ("x", "y")
        }
        arrays["y_train"][:10] = np.arange(10)
        np.savez(file, **{name: a.astype(np.uint8 if name[0] == "x" else np.int64) for name, a in arrays.items()})
    content = full_size("cpu")
    content["attacks"].pop()
    content["data"] = {"name": "npz", "root": str(file)}
    for model in content["models"]:
        model["options"], model["time_steps"] = {"width": 0.05}, 2
        model["training"] |= {"epochs": 1}
    return parse_config(content | {"eps": [8 / 255], "gradients": {"n_images": 4}})


def main() -> None:
    """Run for the given time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=570)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/cifar10"))
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    tune_allocator()
    if options.small:
        config = small(options.out.with_name(options.out.name + "-data"))
    else:
        content = full_size(options.device)
        content["data"]["root"] = options.data_root
        for model in content["models"]:
            model["training"]["epochs"] = options.epochs
        config = parse_config(content)
    try:
        results = run_benchmark(config, options.out, Deadline(options.seconds))
    except KeyboardInterrupt:
        print("time is over; call again to go on")
        return
    for model in results["models"]:
        print(
            model["title"], f"{model['clean']['value']:.1%}", [f"{g['adversarial']['value']:.1%}" for g in model["gap"]]
        )


if __name__ == "__main__":
    main()
