"""The main job for each data set: a plain SNN, an SR-trained SNN and a QCFS-converted SNN under noise and attack."""

from __future__ import annotations

from typing import Any

from robustsnn.evaluation.config import BenchmarkConfig, parse_config

_FAR = (2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255, 64 / 255)
_NEAR = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)

_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "eps": _FAR,
        "neuron": {"kind": "lif"},
        "training": {"epochs": 20, "batch_size": 64, "lr": 3e-3},
        "lam": 0.05,
    },
    "mnist": {
        "eps": _FAR,
        "time_steps": 4,
        "training": {"epochs": 3, "batch_size": 128, "lr": 3e-3},
        "lam": 0.01,
        "n_test": 1000,
    },
    "fashion-mnist": {
        "eps": _NEAR,
        "time_steps": 4,
        "training": {"epochs": 10, "batch_size": 128, "lr": 3e-3},
        "lam": 0.005,
        "n_test": 1000,
    },
    "cifar10": {
        "eps": _NEAR,
        "architecture": "vgg11",
        "training": {
            "epochs": 200,
            "batch_size": 32,
            "optimizer": "sgd",
            "lr": 0.1,
            "augment": "crop-flip",
        },
        "lam": 0.002,
        "n_test": 1000,
    },
}
_SETTINGS["cifar100"] = _SETTINGS["cifar10"]
_SETTINGS["npz"] = _SETTINGS["digits"] | {"n_test": 1000}

_ATTACKS = (
    {"name": "fgsm", "title": "FGSM"},
    {"name": "pgd", "title": "PGD-10", "params": {"steps": 10}},
    {"name": "apgd-ce", "title": "APGD-CE-20", "params": {"steps": 20}},
)
_NOISES = (
    {"name": "uniform", "title": "uniform"},
    {"name": "sign", "title": "sign"},
    {"name": "gaussian", "title": "gaussian"},
)


def main_job(dataset: str = "digits", **overrides: Any) -> BenchmarkConfig:
    """The configuration that `robustsnn benchmark` runs without a file.

    Args:
        dataset: name of a data set.
        overrides: top-level keys of `BenchmarkConfig` that replace the preset's.
    """
    setting = _SETTINGS.get(dataset, _SETTINGS["npz"])
    common = {
        "architecture": setting.get("architecture", "cnn"),
        "time_steps": setting.get("time_steps", 8),
        "training": setting["training"],
    }
    neuron = setting.get("neuron", {"kind": "if"})
    content: dict[str, Any] = {
        "data": {"name": dataset, "n_test": setting.get("n_test")},
        "models": (
            {"name": "plain", "title": "Plain SNN", "neuron": neuron, **common},
            {
                "name": "sr",
                "title": "SR-trained SNN",
                "neuron": neuron,
                "objective": "sr",
                "objective_options": {"lam": setting["lam"]},
                **common,
            },
            {
                "name": "qcfs",
                "title": "QCFS-converted SNN",
                "neuron": {"kind": "qcfs", "levels": 8, "bound": 4.0},
                "conversion": {"method": "qcfs"},
                **common,
            },
        ),
        "noises": _NOISES,
        "attacks": _ATTACKS,
        "rules": ({"name": "bptt", "title": "BPTT"}, {"name": "bptr", "title": "BPTR"}),
        "eps": setting["eps"],
    }
    return parse_config(content | overrides)
