"""The suites that come with the package, for each data set: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustsnn.conversion import METHODS
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.conversion_suite_config import ConversionSuite, conversion_suite_of
from robustsnn.evaluation.parsing import parse
from robustsnn.evaluation.presets import main_job
from robustsnn.evaluation.suite import Suite, SuiteConfig

SUITES = {
    "defenses": "every defense under the same model, data, T and budget, each with several seeds",
    "conversions": "ANNs, their conversions and an SNN trained directly: accuracy, robustness, latency, energy",
}

_LAMBDAS = (0.0005, 0.001, 0.002, 0.004, 0.01)
_SETTINGS: dict[str, dict[str, Any]] = {
    # lambda: of SR in SR+AT; radius: of every attack inside training but those of AT's own rows
    "digits": {"lam": 0.05, "lams": (*_LAMBDAS, 0.02, 0.05), "radius": "16/255", "eps": ["16/255", "32/255"]},
    "mnist": {"lam": 0.01, "lams": (*_LAMBDAS, 0.02), "radius": "32/255", "eps": ["32/255", "64/255"]},
    "fashion-mnist": {"lam": 0.005, "lams": _LAMBDAS, "radius": "8/255", "eps": ["8/255"]},
    "cifar10": {"lam": 0.002, "lams": _LAMBDAS, "radius": "8/255", "eps": ["8/255"]},
}
_SETTINGS["cifar100"] = _SETTINGS["cifar10"]
_SETTINGS["npz"] = _SETTINGS["digits"]
_TITLES = {
    "max": "maximum",
    "percentile": "percentile",
    "opi": "OPI",
    "ltb": "LTB",
    "clip-floor": "clip-floor",
    "calibrated": "calibrated",
}
"""The methods of ReLU networks in the order of the table."""
_N_TEST = 100
_AT_RADII = ("2/255", "8/255")
_STEPS = 5


def defense_suite(dataset: str = "digits", seeds: Sequence[int] = (0, 1, 2), lams: Sequence[float] = ()) -> SuiteConfig:
    """The suite that ``robustsnn benchmark --suite defenses`` runs without a file.

    Args:
        dataset: name of a data set.
        seeds: of training.
        lams: weights of SR's sweep; the data set's own unless given.

    Raises:
        RobustSNNError: no seed, a seed or weight twice, or a weight that is not above 0.
    """
    job = main_job(dataset)
    setting = _SETTINGS.get(dataset, _SETTINGS["npz"])
    sweep = sorted(lams or setting["lams"])
    if sweep[0] <= 0:
        raise RobustSNNError(f"SR's sweep takes weights above 0, got {sweep[0]}; lambda 0 is the plain model")
    common = job.models[0].model_dump(mode="json", exclude={"name", "title"}, exclude_unset=True)
    content = {
        "seeds": list(seeds),
        "model": common,
        "defenses": [*_defenses(setting["radius"], setting["lam"], sweep)],
        "benchmark": {
            "data": job.data.model_dump(mode="json"),
            "noises": [{"name": "uniform"}, {"name": "sign"}, {"name": "gaussian"}],
            "attacks": [
                {"name": "fgsm", "title": "FGSM"},
                {"name": "pgd", "title": "PGD-20", "params": {"steps": 20}},
                {"name": "ensemble-standard", "title": "ensemble"},
            ],
            "rules": [{"name": "bptt", "title": "BPTT"}, {"name": "bptr", "title": "BPTR"}],
            "eps": setting["eps"],
        },
    }
    return parse(SuiteConfig, content, "suite")


def conversion_suite(dataset: str = "digits", seeds: Sequence[int] = (0, 1, 2)) -> ConversionSuite:
    """The suite that ``robustsnn benchmark --suite conversions`` runs without a file.

    A ReLU network with every method that is calibrated, a QCFS network with its conversion and both corrections, and the
    spiking network of the data set's main job, all of one architecture and training budget.

    Args:
        dataset: name of a data set.
        seeds: of training.

    Raises:
        RobustSNNError: no seed, or one twice.
    """
    job, setting = main_job(dataset), _SETTINGS.get(dataset, _SETTINGS["npz"])
    common = job.models[0].model_dump(mode="json", exclude={"name", "title", "neuron"}, exclude_unset=True)
    direct = job.models[0].neuron.model_dump(mode="json")
    relu, qcfs = {"kind": "relu"}, {"kind": "qcfs", "levels": 4, "bound": 4.0}

    def converted(name: str, title: str, source: str, method: str, correction: str | None = None) -> dict[str, Any]:
        conversion = {"method": method} | ({} if correction is None else {"correction": {"kind": correction}})
        neuron = relu if source == "ann" else qcfs
        return {"name": name, "title": title, "source": source, "model": {"neuron": neuron, "conversion": conversion}}

    content = {
        "seeds": list(seeds),
        "reference": "ann",
        "model": common,
        "conversions": [
            {"name": "ann", "title": "ANN, ReLU", "model": {"neuron": relu, "as_ann": True}},
            {"name": "qat", "title": "ANN, QCFS", "model": {"neuron": qcfs, "as_ann": True}},
            *(
                converted(name, _TITLES.get(name, name), "ann", name)
                for name in sorted(METHODS, key=lambda name: [*_TITLES, name].index(name))
                if METHODS[name].calibrated
            ),
            converted("qcfs", "QCFS", "qat", "qcfs"),
            converted("qcfs+srp", "QCFS + SRP", "qat", "qcfs", "srp"),
            converted("qcfs+cos", "QCFS + COS", "qat", "qcfs", "cos"),
            {"name": "direct", "title": "SNN, trained directly", "model": {"neuron": direct}},
        ],
        "benchmark": {
            "data": job.data.model_dump(mode="json") | {"n_test": min(job.data.n_test or _N_TEST, _N_TEST)},
            "noises": [{"name": "uniform"}, {"name": "sign"}],
            "attacks": [
                {"name": "pgd", "title": "PGD-20", "params": {"steps": 20}},
                {"name": "ensemble-standard", "title": "ensemble"},
            ],
            "rules": [{"name": "bptt", "title": "BPTT"}, {"name": "bptr", "title": "BPTR"}],
            "eps": setting["eps"][:1],
            "gradients": {"n_images": 0},
            "checks": {"n_images": 16},
        },
    }
    return conversion_suite_of(content)


def build_suite(
    name: str, dataset: str = "digits", seeds: Sequence[int] = (0, 1, 2), lams: Sequence[float] = ()
) -> Suite:
    """A suite by name; see `defense_suite` and `conversion_suite`.

    Raises:
        UnknownNameError: no such suite.
        RobustSNNError: weights for a sweep that the suite does not have.
    """
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    if name == "defenses":
        return defense_suite(dataset, seeds, lams)
    if lams:
        raise RobustSNNError("--lam is of SR's sweep in the suite of defenses; leave it out")
    return conversion_suite(dataset, seeds)


def _defenses(radius: str, lam: float, lams: Sequence[float]) -> list[dict[str, Any]]:
    inner = f"eps={radius}, steps={_STEPS}"
    shown = radius.replace("/255", "")

    def entry(name: str, title: str, objective: str, **model: Any) -> dict[str, Any]:
        return {"name": name, "title": title, "model": {"objective": objective, **model}}

    return [
        entry("plain", "plain", "ce"),
        entry("tet", "TET", "tet"),
        *(entry(f"sr-{x:g}", f"SR, λ {x:g}", f"sr(lam={x!r})") | {"sweep": x} for x in lams),
        entry("sr-l2", f"SR ℓ2, λ {lam:g}", f"sr(lam={lam!r}, norm=l2)"),
        entry("input-gradient", "input gradient ℓ2", "input-gradient"),
        *(
            entry(f"at-{r.partition('/')[0]}", f"AT, ε {r}", f"at(eps={r}, steps={_STEPS})")
            for r in dict.fromkeys((*_AT_RADII, radius))
        ),
        entry(f"sr+at-{shown}", f"SR + AT, ε {radius}", f"sr(lam={lam!r}) + at({inner})"),
        entry("trades", f"TRADES, ε {radius}", f"trades({inner})"),
        entry("mart", f"MART, ε {radius}", f"mart({inner})"),
        entry("rat", f"RAT, ε {radius}", f"rat({inner}, alpha=none)", training={"weight_decay": 0.0}),
        entry("hire", f"HIRE, ε {radius}", f"hire(eps={radius})"),
        entry("dlif", "DLIF", "dlif", neuron={"kind": "dlif", "tau": 100.0}),
        entry("stog", "StoG", "stog", neuron={"gates": True}),
        entry("feel", "FEEL", "ce", neuron={"kind": "feel"}, encoder="frequency"),
        entry("tgo", "TGO", "tgo", neuron={"noise": 0.2}),
        entry("mpd-sgr", "MPD-SGR", "mpd-sgr"),
    ]
