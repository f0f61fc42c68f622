"""Is the ensemble at least as strong as every single rule and attack? Trains plain, SR and AT networks and measures all.

python benchmarks/ensemble_table.py mnist --data-root mnist.npz --out out/ensemble
python benchmarks/ensemble_table.py cifar --data-root cifar.npz --out out/ensemble

The data are .npz files (x_train, y_train, x_test, y_test). Everything is kept in the folder; run again to go on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from robustsnn.runtime import prepare_process, tune_allocator

prepare_process()

from robustsnn.attacks import ImageAttack, SpikingAutoAttack, build_attack  # noqa: E402
from robustsnn.checkpoint import load_checkpoint  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.evaluation import Progress, parse_config  # noqa: E402
from robustsnn.evaluation.config import BenchmarkConfig  # noqa: E402
from robustsnn.evaluation.recipes import Recipe  # noqa: E402
from robustsnn.evaluation.single import train_one  # noqa: E402
from robustsnn.evaluation.statistics import rate  # noqa: E402
from robustsnn.evaluation.verification import decide, is_legal  # noqa: E402
from robustsnn.files import write_atomic  # noqa: E402
from robustsnn.gradients import build_rule  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {
        "options": {"width": 16, "hidden": 128},
        "training": {"epochs": 2, "batch_size": 128, "lr": 3e-3},
        "sr": 0.01,
        "at": 0.1,
        "eps": {"plain": 16 / 255, "sr": 48 / 255, "at": 48 / 255},
    },
    "cifar": {
        "options": {"width": 24, "hidden": 128},
        "training": {"epochs": 3, "batch_size": 128, "lr": 3e-3, "augment": "crop-flip"},
        "sr": 0.01,
        "at": 4 / 255,
        "eps": {"plain": 1 / 255, "sr": 4 / 255, "at": 4 / 255},
    },
}
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "BPTT, atan 2, reset detached": ("bptt", {"surrogate": "ATan", "alpha": 2.0, "detach_reset": True}),
    "BPTT, atan 2": ("bptt", {"surrogate": "ATan", "alpha": 2.0, "detach_reset": False}),
    "BPTT, triangle 1": ("bptt", {"surrogate": "triangle", "alpha": 1.0, "detach_reset": False}),
    "BPTT, sigmoid 4, reset detached": ("bptt", {"surrogate": "Sigmoid", "alpha": 4.0, "detach_reset": True}),
    "BPTR": ("bptr", {}),
    "CBA": ("cba", {}),
    "RGA": ("rga", {}),
    "HART 1": ("hart", {}),
    "HART 0.5": ("hart", {"gamma": 0.5}),
    "PDSG": ("pdsg", {}),
    "ASSG": ("assg", {}),
    "MIX": ("mix", {}),
}
STEPS = 100
SHOWN = ("quick", "standard")
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    f"PGD-{STEPS}": ("pgd", {}),
    f"APGD-CE-{STEPS}": ("apgd", {"loss": "ce"}),
    f"APGD-DLR-{STEPS}": ("apgd", {"loss": "dlr"}),
    f"SA-PGD-DLR-{STEPS}": ("sa-pgd", {"loss": "dlr"}),
}


def recipes(setting: dict[str, Any], data: str) -> BenchmarkConfig:
    """Plain, SR and AT networks of one architecture, LIF neurons, T = 4."""
    eps = setting["at"]
    defenses = {
        "plain": ("ce", {}),
        "sr": ("sr", {"lam": setting["sr"]}),
        "at": ("at", {"eps": eps, "steps": 1, "alpha": eps, "random_start": True}),
    }
    common = {
        "architecture": "cnn",
        "options": setting["options"],
        "neuron": {"kind": "lif"},
        "time_steps": 4,
        "training": setting["training"],
    }
    models = [
        {"name": name, "objective": objective, "objective_options": options, **common}
        for name, (objective, options) in defenses.items()
    ]
    return parse_config({"data": {"name": "npz", "root": data}, "models": models})


def main() -> None:
    """Train what is missing, then measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--out", type=Path, default=Path("out/ensemble"))
    parser.add_argument("--n", type=int, default=100, help="test images")
    parser.add_argument("--train-only", action="store_true")
    options = parser.parse_args()
    tune_allocator()
    folder = options.out / options.setting
    config = recipes(SETTINGS[options.setting], options.data_root)
    for recipe in config.models:
        file = folder / f"{recipe.name}.safetensors"
        if not file.exists():
            record = train_one(Recipe(data=config.data, model=recipe), file, "cpu", Progress())
            print(
                f"{file}: test accuracy {record['test_accuracy']['value']:.3f}, {record['seconds']:.0f} s", flush=True
            )
    if options.train_only:
        return
    images, labels = load("npz", options.data_root).test.batch(slice(options.n))
    for name, eps in SETTINGS[options.setting]["eps"].items():
        model = load_checkpoint(folder / f"{name}.safetensors").model
        assert isinstance(model, SpikingClassifier)
        cells = Cells(folder / f"{name}-{options.n}.json")
        clean = decide(model, images) == labels
        cells.keep("clean", partial(dict, standing=clean.tolist()))
        for rule, (rule_name, rule_params) in RULES.items():
            view = model.through(build_rule(rule_name, **rule_params))
            for attack, (attack_name, params) in ATTACKS.items():
                built = build_attack(attack_name, view, eps=eps, steps=STEPS, **params)
                cells.keep(f"{attack} / {rule}", partial(run, built, model, images, labels, clean))
        for preset in SHOWN:
            ensemble = SpikingAutoAttack(model, eps=eps, preset=preset)
            cells.keep(f"ensemble {preset}", partial(run, ensemble, model, images, labels, clean))
        report(options.setting, name, eps, cells.found)


class Cells:
    """Measurements by name, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def keep(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure what is not there yet."""
        if name not in self.found:
            self.found[name] = measure()
            write_atomic(self.file, json.dumps(self.found))
            print(f"{self.file.stem}: {name}: {sum(self.found[name]['standing'])} standing", flush=True)


def run(attack: ImageAttack, model: SpikingClassifier, images: Tensor, labels: Tensor, clean: Tensor) -> dict[str, Any]:
    """Which images still stand, judged by the plain model, and what it took."""
    started = time.perf_counter()
    adversarial = attack(images[clean], labels[clean])
    seconds = time.perf_counter() - started
    standing = clean.clone()
    legal = is_legal(adversarial, images[clean], attack.ball)
    standing[clean] = (decide(model, adversarial) == labels[clean]) | ~legal
    found = {"standing": standing.tolist(), "seconds": seconds, "forwards": attack.work.forwards}
    if isinstance(attack, SpikingAutoAttack):
        found["members"] = [[str(e.member), e.tried, e.fooled, e.seconds, e.note] for e in attack.log]
    return found


def report(setting: str, name: str, eps: float, found: dict[str, dict[str, Any]]) -> None:
    """A Markdown table: robust accuracy in percent of every rule and attack, the union of all, and the presets."""

    def robust(*names: str) -> str:
        share = rate(
            sum(all(marks) for marks in zip(*(found[n]["standing"] for n in names))), len(found["clean"]["standing"])
        )
        return f"{100 * share.value:.0f}"

    clean = found["clean"]["standing"]
    print(f"\n{setting}, {name}: eps {255 * eps:.0f}/255, n = {len(clean)}, clean {robust('clean')} %\n")
    print(f"| rule | {' | '.join(ATTACKS)} |\n| --- |{' --- |' * len(ATTACKS)}")
    for rule in RULES:
        print(f"| {rule} | {' | '.join(robust(f'{attack} / {rule}') for attack in ATTACKS)} |")
    singles = [f"{attack} / {rule}" for rule in RULES for attack in ATTACKS]
    print(f"| all {len(singles)} together | {robust(*singles)} |{' |' * (len(ATTACKS) - 1)}")
    for preset in SHOWN:
        seconds = found[f"ensemble {preset}"]["seconds"]
        print(f"| ensemble {preset} ({seconds:.0f} s) | {robust(f'ensemble {preset}')} |{' |' * (len(ATTACKS) - 1)}")


if __name__ == "__main__":
    main()
