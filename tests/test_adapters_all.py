"""Every attack that torchattacks, Foolbox and ART have runs through its adapter on a spiking network."""

from __future__ import annotations

import functools
import inspect
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import attack_models as am
import pytest
import torch
from torch import Tensor, nn

from robustsnn import SpikingClassifier, gradients
from robustsnn.attacks import build_attack
from robustsnn.attacks.adapters import ArtAttack, FoolboxAttack, TorchAttack, available
from robustsnn.attacks.adapters import art as art_adapter
from robustsnn.attacks.adapters import foolbox as foolbox_adapter
from robustsnn.attacks.adapters import torchattacks as torchattacks_adapter
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.verification import is_legal
from robustsnn.neurons import LIF

EPS = {"Linf": 0.2, "L2": 1.5, "L1": 8.0, "L0": 30}
SMALL: dict[str, Any] = {
    "steps": 3,
    "n_queries": 20,
    "restarts": 2,
    "nb_sample": 8,
    "popsize": 4,
    "max_iterations": 10,
    "binary_search_steps": 2,
    "repeats": 3,
    "directions": 2,
    "population": 4,
    "max_gradient_eval_steps": 20,
    "initial_gradient_eval_steps": 5,
    "max_iter": 2,
    "max_eval": 20,
    "init_eval": 4,
    "init_size": 20,
    "num_trial": 2,
    "query_limit": 50,
    "sample_size": 2,
    "k": 4,
    "nb_parallel": 8,
}
OVER: dict[str, dict[str, Any]] = {
    "SaltAndPepperNoiseAttack": {"steps": 10},
    "ZooAttack": {"use_resize": False, "use_importance": False},
    "PixelAttack": {"th": 3},
    "SquareAttack": {"p_init": 0.3},
    "CarliniLInfMethod": {"largest_const": 1e-4},
}
SLOW = ("BrendelBethge",)  # half a minute to compile
NEEDS_MORE = {"ThresholdAttack": "cma", "AutoAttack": "multiprocess"}  # ART's


@functools.cache
def case() -> tuple[SpikingClassifier, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), LIF(v_threshold=0.3), nn.Flatten(), nn.Linear(6 * 64, 4))
    model = SpikingClassifier(net, 4).eval()
    x = am.random_images(5, 2, 8, 8, dtype=torch.float32)
    return model, x, model(x).argmax(1).detach()


def listed(adapter: Any) -> list[Any]:
    try:
        names = adapter.names()
    except RobustSNNError:
        return []
    return [pytest.param(n, marks=pytest.mark.slow) if any(s in n for s in SLOW) else n for n in names]


def small(kind: Any, name: str) -> dict[str, Any]:
    known = inspect.signature(kind.__init__).parameters
    options = {key: value for key, value in SMALL.items() if key in known}
    return options | {key: value for key, value in OVER.get(name, {}).items() if key in known}


def check(adapter: Any, name: str, kind: Any, **options: Any) -> None:
    """One call on the network through BPTT; legal, and repeatable."""
    model, x, y = case()
    goal = (y + 1) % 4 if options.get("targeted") else y
    options |= small(kind, name)
    own = adapter(model, name, 1, **options).ball.norm
    attack = adapter(model.through(gradients.BPTT()), name, EPS[own], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        adv = attack(x, goal)
        assert torch.equal(attack(x, goal), adv)
    assert adv.shape == x.shape
    assert is_legal(adv, x, attack.ball).all()
    assert attack.work.forwards > 0
    assert (attack.work.backwards > 1) == attack.takes_gradient


@pytest.mark.skipif(find_spec("torchattacks") is None, reason="torchattacks is not installed")
class TestTorchattacks:
    @property
    def library(self) -> Any:
        return import_module("torchattacks")

    @pytest.mark.parametrize("name", listed(torchattacks_adapter))
    def test_runs(self, name, capsys):
        check(TorchAttack, name, getattr(self.library, name))
        assert capsys.readouterr().out == ""

    def test_none_is_forgotten(self):
        left_out = set(self.library.__all__) - {n.partition(":")[2] for n in available()["torchattacks"]}
        assert left_out == {"MultiAttack", "LGV"}
        for name in left_out:
            with pytest.raises(RobustSNNError, match=f"torchattacks:{name} is not available here: it "):
                build_attack(f"torchattacks:{name}", case()[0])

    @pytest.mark.parametrize("name", listed(torchattacks_adapter))
    def test_targeted(self, name):
        kind = getattr(self.library, name)
        stub = torchattacks_adapter._Stub()
        if "targeted" in kind(stub).supported_mode and name != "FAB":
            check(TorchAttack, name, kind, targeted=True)
        else:
            with pytest.raises(RobustSNNError, match=f"torchattacks:{name} has no targeted mode"):
                TorchAttack(case()[0], name, targeted=True)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
    @pytest.mark.parametrize("name", ["TIFGSM", "PIFGSM", "PIFGSMPP"])
    def test_any_number_of_channels(self, name, channels):
        """The library writes three filters and ``groups=3``."""
        model = am.Smooth(channels * 64).float()
        x = am.random_images(4, channels, 8, 8, dtype=torch.float32)
        y = model(x).argmax(1).detach()
        attack = TorchAttack(model, name, 0.1)
        adv = attack(x, y)
        assert is_legal(adv, x, attack.ball).all()
        if channels == 3:
            options = {"eps": 0.1, "alpha": 0.025} if name == "TIFGSM" else {"max_epsilon": 0.1}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                direct = getattr(self.library, name)(model, **options)(x, y)
            assert (adv - direct).abs().max() < 1e-6

    def test_wider_filters_filter_each_channel_by_itself(self):
        kernel, image = torch.rand(1, 1, 5, 5).expand(3, -1, -1, -1), torch.rand(2, 6, 8, 8)
        wide = nn.functional.conv2d(image, torchattacks_adapter._grouped(kernel, 6), padding="same", groups=3)
        one_by_one = [nn.functional.conv2d(image[:, [c]], kernel[:1], padding="same") for c in range(6)]
        assert (wide - torch.cat(one_by_one, 1)).abs().max() < 1e-6


@pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
class TestFoolbox:
    @property
    def library(self) -> Any:
        return import_module("foolbox.attacks")

    @pytest.mark.parametrize("name", listed(foolbox_adapter))
    def test_runs(self, name):
        options: dict[str, Any] = {"targeted": True} if name == "GenAttack" else {}
        check(FoolboxAttack, name, getattr(self.library, name), **options)

    def test_a_parameter_without_a_default(self):
        with pytest.raises(RobustSNNError, match="foolbox:VirtualAdversarialAttack needs a value for steps"):
            FoolboxAttack(case()[0], "VirtualAdversarialAttack")

    def test_none_is_forgotten(self):
        known = {n for n, k in vars(self.library).items() if inspect.isclass(k) and not inspect.isabstract(k)}
        attacks = {n for n in known if issubclass(getattr(self.library, n), self.library.Attack)}
        left_out = attacks - {n.partition(":")[2] for n in available()["foolbox"]}
        assert left_out == {"BinarizationRefinementAttack", "SpatialAttack"}
        for name in left_out:
            with pytest.raises(RobustSNNError, match=f"foolbox:{name} is not available here: it "):
                build_attack(f"foolbox:{name}", case()[0])


@pytest.mark.skipif(find_spec("art") is None, reason="art is not installed")
class TestArt:
    @property
    def library(self) -> Any:
        return import_module("art.attacks.evasion")

    @pytest.mark.parametrize("name", listed(art_adapter))
    def test_runs(self, name):
        if name in NEEDS_MORE:
            try:
                __import__(NEEDS_MORE[name])
            except ImportError:
                with pytest.raises(RobustSNNError, match=f"needs the package {NEEDS_MORE[name]}; pip install"):
                    check(ArtAttack, name, getattr(self.library, name))
                return
        options: dict[str, Any] = {"targeted": True} if name == "TargetedUniversalPerturbation" else {}
        check(ArtAttack, name, getattr(self.library, name), **options)

    @pytest.mark.parametrize("name", ["GeoDA", "Wasserstein", "shadowattack"])
    def test_what_does_not_fit_is_explained(self, name):
        with pytest.raises(RobustSNNError, match=f"(?i)art:{name} is not available here: "):
            build_attack(f"art:{name}", case()[0])
