"""The suites that come with the package, for each data set: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.parsing import parse
from robustsnn.evaluation.presets import main_job
from robustsnn.evaluation.suite import SuiteConfig

SUITES = {"defenses": "every defense under the same model, data, T and budget, each with several seeds"}

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


def build_suite(
    name: str, dataset: str = "digits", seeds: Sequence[int] = (0, 1, 2), lams: Sequence[float] = ()
) -> Any:
    """A suite by name; see `defense_suite`.

    Raises:
        UnknownNameError: no such suite.
    """
    if name not in SUITES:
        raise UnknownNameError("suite", name, SUITES)
    return defense_suite(dataset, seeds, lams)


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
