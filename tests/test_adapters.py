"""Adapters of other libraries against the libraries themselves, closed forms, and what they promise to correct."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import warnings
from importlib import import_module
from typing import Any

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import distance, fooled
from torch import Tensor, nn

from robustsnn import gradients
from robustsnn.attacks import attack_entry, build_attack
from robustsnn.attacks.adapters import (
    ArtAttack,
    AutoAttack,
    FoolboxAttack,
    LibraryAttack,
    TorchAttack,
    adapter_for,
    autoattack,
    available,
)
from robustsnn.attacks.adapters.target import Target
from robustsnn.attacks.work import Work
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.verification import is_legal


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def case(classes: int = 4, count: int = 12, **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    model = am.Smooth(36, classes=classes, **options).float()
    x = am.random_images(count, 1, 6, 6, dtype=torch.float32)
    return model, x, model(x).argmax(1).detach()


def same(ours: Tensor, direct: Tensor) -> bool:
    return bool((ours - direct).abs().max() < 1e-6)


class TestSameAsTheLibrary:
    """One seed, one result, whether the library is called directly or through us."""

    @needs("torchattacks")
    @pytest.mark.parametrize(
        ("name", "norm", "direct_name", "options"),
        [
            ("FGSM", "Linf", "FGSM", {}),
            ("PGD", "Linf", "PGD", {"steps": 5, "alpha": 0.02, "random_start": False}),
            ("PGD", "Linf", "PGD", {"steps": 5, "alpha": 0.02}),
            ("PGD", "L2", "PGDL2", {"steps": 5, "alpha": 0.1}),
            ("MIFGSM", "Linf", "MIFGSM", {"steps": 5, "alpha": 0.02}),
            ("APGD", "Linf", "APGD", {"steps": 20, "loss": "dlr"}),
            ("APGD", "L2", "APGD", {"steps": 20}),
            ("APGDT", "Linf", "APGDT", {"steps": 10}),
            ("FAB", "Linf", "FAB", {"steps": 10}),
            ("Square", "L2", "Square", {"n_queries": 50}),
        ],
    )
    def test_torchattacks(self, name, norm, direct_name, options):
        model, x, y = case()
        eps = 0.06 if norm == "Linf" else 0.4
        ours = TorchAttack(model, name, eps, norm=norm, seed=3, **options)(x, y)
        named = {"norm": norm, "seed": 3} if direct_name in ("APGD", "APGDT", "FAB", "Square") else {}
        named |= {"n_classes": 4} if direct_name in ("APGDT", "FAB") else {}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            direct = getattr(import_module("torchattacks"), direct_name)(model, eps=eps, **named, **options)(x, y)
        assert same(ours, direct)
        assert fooled(model, ours, y).any()

    @needs("foolbox")
    @pytest.mark.parametrize(
        ("name", "norm", "direct_name", "options"),
        [
            ("LinfPGD", "Linf", "LinfPGD", {"steps": 5, "rel_stepsize": 0.3}),
            ("PGD", "L2", "L2PGD", {"steps": 5, "rel_stepsize": 0.3, "random_start": False}),
            ("MIFGSM", "Linf", "MIFGSM", {}),
            ("DeepFoolAttack", "Linf", "LinfDeepFoolAttack", {}),
            ("FMNAttack", "L2", "L2FMNAttack", {"steps": 20}),
        ],
    )
    def test_foolbox(self, name, norm, direct_name, options):
        foolbox = import_module("foolbox")
        model, x, y = case()
        eps = 0.06 if norm == "Linf" else 0.12
        attack = FoolboxAttack(model, name, eps, norm=norm, seed=3, **options)
        assert attack.name == direct_name
        ours = attack(x, y)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            target = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
            _, clipped, success = getattr(foolbox.attacks, direct_name)(**options)(target, x, y, epsilons=eps)
        assert torch.equal(fooled(model, ours, y), success)
        assert same(ours[success], clipped[success])
        assert 0 < success.sum() < len(x)
        if attack.minimum_norm:
            assert torch.equal(ours[~success], x[~success])

    @needs("art")
    @pytest.mark.parametrize(
        ("name", "norm", "options"),
        [
            ("FastGradientMethod", "Linf", {}),
            ("ProjectedGradientDescent", "Linf", {"max_iter": 5, "eps_step": 0.02, "num_random_init": 1}),
            ("ProjectedGradientDescent", "L2", {"max_iter": 5, "eps_step": 0.1}),
            ("AutoProjectedGradientDescent", "Linf", {"max_iter": 10, "eps_step": 0.12, "loss_type": "cross_entropy"}),
        ],
    )
    def test_art(self, name, norm, options):
        model, x, y = case()
        eps = 0.06 if norm == "Linf" else 0.4
        ours = ArtAttack(model, name, eps, norm=norm, seed=3, **options)(x, y)
        estimator = import_module("art.estimators.classification").PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (1, 6, 6), 4, clip_values=(0, 1), device_type="cpu"
        )
        state = np.random.get_state()  # noqa: NPY002
        with torch.random.fork_rng():
            torch.manual_seed(3)
            np.random.seed(3)  # noqa: NPY002
            attack = (
                getattr(import_module("art.attacks.evasion"), name)(
                    estimator,
                    eps=eps,
                    norm={"Linf": np.inf, "L2": 2}[norm],
                    batch_size=len(x),
                    verbose=False,
                    **options,
                )
                if name != "FastGradientMethod"
                else import_module("art.attacks.evasion").FastGradientMethod(estimator, eps=eps, batch_size=len(x))
            )
            direct = torch.from_numpy(attack.generate(x.numpy(), np.eye(4, dtype=np.float32)[y.numpy()]))
        np.random.set_state(state)  # noqa: NPY002
        assert same(ours, direct)
        assert fooled(model, ours, y).any()

    @needs("pyautoattack")
    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    def test_autoattack(self, norm):
        model, x, y = case(count=6)
        eps = 0.08 if norm == "Linf" else 0.6
        ours = AutoAttack(model, eps, norm=norm, seed=3, package="pyautoattack")(x, y)
        with torch.random.fork_rng():
            reference = import_module("pyautoattack").AutoAttack(model, norm=norm, eps=eps, seed=3)
            reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = 3
            direct, _ = reference.run_standard_evaluation(x, y, batch_size=6)
        assert same(ours, direct)
        assert fooled(model, ours, y).any()

    @needs("torchattacks", "foolbox", "art")
    def test_libraries_agree_with_each_other_and_with_ours(self):
        """PGD without a random start is the same five steps everywhere."""
        model, x, y = case()
        views = [
            build_attack("pgd", model, eps=0.06, steps=5, alpha=0.02, random_start=False, early_stop=False),
            build_attack("torchattacks:PGD", model, eps=0.06, steps=5, alpha=0.02, random_start=False),
            build_attack("foolbox:LinfPGD", model, eps=0.06, steps=5, abs_stepsize=0.02, random_start=False),
            build_attack("art:ProjectedGradientDescent", model, eps=0.06, max_iter=5, eps_step=0.02),
        ]
        first, *others = (attack(x, y) for attack in views)
        assert all(same(first, other) for other in others)


class TestLinearOracle:
    """On a linear model the distance is known: just inside it nothing may succeed, just outside it all must."""

    attacks: dict[str, tuple[str, str, dict[str, Any], float]] = {  # noqa: RUF012
        "torchattacks FGSM": ("torchattacks:FGSM", "Linf", {}, 1.01),
        "torchattacks PGD": ("torchattacks:PGD", "Linf", {}, 1.01),
        "torchattacks PGDL2": ("torchattacks:PGD", "L2", {"steps": 30}, 1.05),
        "torchattacks APGD": ("torchattacks:APGD", "Linf", {"steps": 10}, 1.01),
        "torchattacks FAB": ("torchattacks:FAB", "L2", {}, 1.1),
        "torchattacks DeepFool": ("torchattacks:DeepFool", "L2", {}, 1.05),
        "foolbox LinfPGD": ("foolbox:LinfPGD", "Linf", {}, 1.01),
        "foolbox LinfDeepFool": ("foolbox:LinfDeepFoolAttack", "Linf", {}, 1.05),
        "foolbox L2DeepFool": ("foolbox:L2DeepFoolAttack", "L2", {}, 1.05),
        "foolbox DDN": ("foolbox:DDNAttack", "L2", {}, 1.1),
        "art FGM": ("art:FastGradientMethod", "L2", {}, 1.01),
        "art PGD": ("art:ProjectedGradientDescent", "Linf", {"max_iter": 10}, 1.01),
        "art APGD": ("art:AutoProjectedGradientDescent", "Linf", {"max_iter": 10, "nb_random_init": 1}, 1.01),
        "art DeepFool": ("art:DeepFool", "L2", {}, 1.1),
        "autoattack Linf": ("autoattack", "Linf", {}, 1.01),
        "autoattack L2": ("autoattack", "L2", {}, 1.01),
    }

    @needs("torchattacks", "foolbox", "art", "pyautoattack")
    @pytest.mark.parametrize("attack", attacks)
    @pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 2, 5)], ids=str)
    def test_just_inside_and_just_outside(self, attack, shape):
        name, norm, options, slack = self.attacks[attack]
        generator = torch.Generator().manual_seed(0)
        w = torch.randn(shape, generator=generator)
        y = torch.tensor([0, 1, 1, 0])
        eps = 0.04 if norm == "Linf" else 0.2
        x = 0.1 * torch.rand(4, *shape, generator=generator) - 0.05
        goal = eps * am.dual(w, norm) * (1 - 2.0 * y) - (x * w).flatten(1).sum(1)
        x = 0.5 + x + goal.view(-1, *[1] * len(shape)) * w / w.pow(2).sum()
        model = am.Linear(w, dead=2)
        for far, expected in ((slack, True), (0.99, False)):
            if name == "autoattack" and not expected:
                continue  # 5,000 queries of Square
            run = build_attack(name, model, eps=far * eps, norm=norm, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # classes that never win have no gradient
                adv = run(x, y)
            assert fooled(model, adv, y).tolist() == [expected] * 4
            assert (distance(adv, x, norm) <= far * eps * (1 + 1e-5)).all()
            if run.__dict__.get("minimum_norm") and not expected:
                assert torch.equal(adv, x)
                assert run.corrected.reverted == 4

    @needs("pyautoattack")
    def test_a_targeted_member_may_be_won_by_another_class(self):
        """The runner-up never wins alone; at its best point a third class does, and that counts."""
        generator = torch.Generator().manual_seed(1)
        w, eps = torch.randn(1, 5, 5, generator=generator), 0.05
        m = eps * am.dual(w, "Linf")

        def model(x: Tensor) -> Tensor:
            f = -((x - 0.5) * w).flatten(1).sum(1)
            return torch.stack([0 * f, f - 0.72 * m, 2 * f - 1.2 * m, 0 * f - 9], 1)

        x = 0.5 + torch.zeros(8, 1, 5, 5)
        y = torch.zeros(8, dtype=torch.long)
        adv = AutoAttack(model, eps)(x, y)
        assert (model(adv).argmax(1) == 2).all()


@needs("pyautoattack")
class TestAutoAttack:
    def test_members_fit_the_number_of_classes(self):
        standard, rand = ("apgd-ce", "apgd-t", "fab-t", "square"), ("apgd-ce", "apgd-dlr")
        assert autoattack.members_for("standard", 4) == autoattack.members_for("standard", 1000) == standard
        assert autoattack.members_for("standard", 3) == ("apgd-ce", "apgd-dlr", "fab-t", "square")
        assert autoattack.members_for("standard", 2) == ("apgd-ce", "fab-t", "square")
        assert autoattack.members_for("rand", 3) == rand
        assert autoattack.members_for("rand", 2) == ("apgd-ce",)
        assert autoattack.members_for("plus", 3) == ("apgd-ce", "apgd-dlr", "fab", "square", "fab-t")

    @pytest.mark.parametrize("package", ["pyautoattack", "torchattacks"])
    @pytest.mark.parametrize("classes", [2, 3, 4])
    def test_members_that_ran(self, package, classes):
        pytest.importorskip(package)
        model, x, y = case(classes, count=3)
        attack = AutoAttack(model, 0.3, version="rand", package=package)
        assert fooled(model, attack(x, y), y).all()
        assert len(attack.members) == (1 if classes == 2 else 2)

    def test_the_port_runs_the_official_hundred_steps(self, monkeypatch):
        library = pytest.importorskip("torchattacks")
        seen = []
        for kind in (library.APGD, library.APGDT, library.FAB):

            def forward(self, images, labels, kind=kind):
                seen.append((kind.__name__, self.steps))
                return images

            monkeypatch.setattr(kind, "forward", forward)
        monkeypatch.setattr(library.Square, "forward", lambda self, images, labels: images)
        model, x, y = case(3)
        AutoAttack(model, 0.01, package="torchattacks")(x, y)
        assert seen == [("APGD", 100), ("APGD", 100), ("FAB", 100)]
        seen.clear()
        model, x, y = case(5)
        attack = build_attack("torchattacks:AutoAttack", model, eps=0.01)
        attack(x, y)
        assert seen == [("APGD", 100), ("APGDT", 100), ("FAB", 100)]
        assert attack.members == ("APGD-ce", "APGDT", "FAB", "Square")

    def test_the_process_is_left_alone(self, capsys):
        """AutoAttack prints, ends tracing (coverage, debuggers) and counts gradient calls of all models together."""
        model, x, y = case(count=3)
        import_module("pyautoattack.checks").funcs["grad"] = 7
        logger, before = logging.getLogger("auto-attack"), sys.gettrace()
        level, handlers = logger.level, list(logger.handlers)

        def tracer(frame: Any, event: str, arg: Any) -> None:
            return None

        sys.settrace(tracer)
        try:
            attack = AutoAttack(model, 0.4)
            attack(x, y)
            assert sys.gettrace() is tracer
        finally:
            sys.settrace(before)
        assert (logger.level, logger.handlers) == (level, handlers)
        assert capsys.readouterr() == ("", "")
        assert "robust accuracy after APGD-CE" in attack.log
        assert "dynamic" not in attack.log
        assert "randomized" not in attack.log

    def test_its_warnings_are_kept(self):
        model, x, y = case(count=3)
        attack = AutoAttack(lambda images: model(images).softmax(1), 0.4)
        attack(x, y)
        assert "probability distribution" in attack.log

    def test_parameters(self):
        model, *_ = case()
        with pytest.raises(RobustSNNError, match="no targeted mode"):
            AutoAttack(model, targeted=True)
        with pytest.raises(RobustSNNError, match="no parameters but version and package, got steps"):
            AutoAttack(model, steps=10)
        with pytest.raises(UnknownNameError, match="Did you mean 'standard'"):
            AutoAttack(model, version="standart")
        with pytest.raises(RobustSNNError, match="AutoAttack is not defined in L0"):
            AutoAttack(model, 3, norm="L0")

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(RobustSNNError, match="AutoAttack is not installed; pip install --no-deps pyautoattack"):
            AutoAttack(case()[0])
        assert available()["autoattack"] == [f"not installed: {autoattack.INSTALL}"]


class Broken(LibraryAttack):
    """Stands in for a library; ``change`` is what it does to images."""

    library = "broken"

    def choose(self, attack: str, norm: str | None, targeted: bool) -> str | None:
        self.name = attack
        self.takes_gradient = False  # type: ignore[misc]
        self.minimum_norm = attack == "minimum"
        self.change = self.parameters["change"]
        return None

    def run(self, target: Target, x: Tensor, y: Tensor, classes: int) -> Tensor:
        target(x)
        return self.change(x)


class TestCorrections:
    def run(self, change: Any, attack: str = "fixed", **options: Any) -> tuple[Broken, Tensor, Tensor]:
        model, x, y = case(count=4)
        broken = Broken(model, attack, **{"eps": 0.1, "change": change} | options)
        return broken, x, broken(x, y)

    @pytest.mark.parametrize("norm", ["Linf", "L2"])
    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0)])
    def test_out_of_the_ball(self, bounds, norm):
        def far(x: Tensor) -> Tensor:
            return torch.cat([x[:3], x[3:] + 0.5])

        broken, x, adv = self.run(far, norm=norm, bounds=bounds)
        assert (broken.corrected.projected, broken.corrected.reverted, broken.corrected.invalid) == (1, 0, 0)
        assert is_legal(adv, x, broken.ball).all()
        assert not torch.equal(adv[3], x[3])
        assert torch.equal(adv[:3], x[:3])

    def test_without_a_budget(self):
        """What is larger than eps is shortened; it stays if it still succeeds, else the original is returned."""
        model, x, y = case(count=9)
        step = 2 * (build_attack("fgsm", model, eps=0.05, early_stop=False)(x, y) - x)
        step[::3] *= -1
        step[1::3] *= 0.1
        attack = Broken(model, "minimum", eps=0.05, change=lambda images: (images + 4 * step).clamp(0, 1))
        adv = attack(x, y)
        size = distance((x + 4 * step).clamp(0, 1), x, "Linf")
        short = attack.ball.project((x + 4 * step).clamp(0, 1), x)
        kept = (size <= 0.05) | fooled(model, short, y)
        assert 0 < kept.sum() < len(x)
        assert torch.equal(adv[kept], short[kept])
        assert torch.equal(adv[~kept], x[~kept])
        assert attack.corrected.reverted == (~kept).sum()
        assert attack.corrected.projected == (kept & (size > 0.05 + 1e-4)).sum() > 0

    def test_nan_becomes_the_original(self):
        broken, x, adv = self.run(lambda x: torch.cat([x[:1] * torch.nan, x[1:2] / 0, x[2:]]))
        assert broken.corrected.invalid == 2
        assert torch.equal(adv, x)

    def test_counts_are_of_the_last_call(self):
        model, x, y = case(count=4)
        broken = Broken(model, "fixed", eps=0.1, change=lambda x: x + 0.5, batch_size=3)
        for _ in range(2):
            broken(x, y)
            assert broken.corrected.projected == 4

    @needs("torchattacks")
    def test_a_dead_sample_of_a_normalising_attack(self):
        """DeepFool divides by the gradient: 0/0, a NaN image, NaN logits; that is no fault of the model."""
        model, x, y = case()

        def half_dead(images: Tensor) -> Tensor:
            return model(images) if torch.equal(images, x[1:2]) else model(images).detach() + 0 * images.sum()

        attack = TorchAttack(half_dead, "DeepFool", 1.0)
        with pytest.warns(RuntimeWarning, match="input gradients were all zero"):
            adv = attack(x[:1], y[:1])
        assert attack.corrected.invalid == 1
        assert torch.equal(adv, x[:1])

    def test_a_library_that_fails_is_named(self):
        with pytest.raises(
            RobustSNNError, match=r"broken:fixed failed on images \(4, 1, 6, 6\) with 4 classes: IndexE"
        ):
            self.run(lambda x: x[:, 9])

    def test_our_own_errors_pass(self):
        error = RobustSNNError("ours")

        def raises(x: Tensor) -> Tensor:
            raise error

        with pytest.raises(RobustSNNError) as caught:
            self.run(raises)
        assert caught.value is error

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError()], ids=repr)
    def test_a_library_out_of_memory_gets_smaller_batches(self, error):
        sizes = []

        def hungry(x: Tensor) -> Tensor:
            sizes.append(len(x))
            if len(x) > 1:
                raise error
            return x

        self.run(hungry)
        assert sizes == [4, 2, 1, 1, 1, 1]

    def test_what_is_printed_goes_to_the_log(self, capsys):
        def talks(x: Tensor) -> Tensor:
            print("hello")
            print("there", file=sys.stderr)
            return x

        broken, *_ = self.run(talks)
        assert capsys.readouterr() == ("", "")
        assert broken.log == "hello\nthere\n"


class TestLayout:
    @needs("torchattacks", "foolbox", "art")
    @pytest.mark.parametrize("name", ["torchattacks:PGD", "foolbox:LinfPGD", "art:ProjectedGradientDescent"])
    def test_other_bounds_are_the_same_attack_scaled(self, name):
        model, x, y = case()
        plain = build_attack(name, model, eps=0.1)(x, y)
        scaled = build_attack(name, lambda v: model((v + 2) / 4), eps=0.4, bounds=(-2, 2))(4 * x - 2, y)
        assert (scaled - (4 * plain - 2)).abs().max() < 1e-4
        assert fooled(model, plain, y).any()

    def test_target_shapes(self):
        for shape in [(7,), (3, 4), (2, 3, 4), (5, 2, 3, 4), (2, 2, 2, 3, 4)]:
            x = am.random_images(3, *shape, dtype=torch.float32)
            for multiple in (1, 3):
                target = Target(lambda v: v.flatten(1)[:, :2], x, (0.0, 1.0), Work(), multiple)
                folded = target.fold(x)
                assert folded.shape == (3, *target.shape)
                assert folded.shape[1] % multiple == 0
                assert torch.equal(target.unfold(folded), x)
                assert torch.equal(target(folded), x.flatten(1)[:, :2])

    @needs("torchattacks")
    def test_entries_that_are_left_alone_are_exactly_the_originals(self):
        """Rounding on the way to [0, 1] and back must not count as a changed entry."""
        model, x, y = case()
        x = 3 * x.double() - 1
        attack = TorchAttack(lambda v: model(((v + 1) / 3).float()), "OnePixel", 1, norm="L0", bounds=(-1, 2), steps=2)
        adv = attack(x, y)
        assert ((adv != x).flatten(1).sum(1) <= 1).all()
        assert (adv != x).any()

    @needs("torchattacks", "foolbox", "art")
    @pytest.mark.parametrize(
        ("name", "options"),
        [("torchattacks:PGD", {"random_start": False}), ("foolbox:LinfDeepFoolAttack", {}), ("art:DeepFool", {})],
    )
    def test_batch_size(self, name, options):
        model, x, y = case(count=7)
        whole = build_attack(name, model, eps=0.1, **options)(x, y)
        for size in (1, 3):
            assert same(build_attack(name, model, eps=0.1, batch_size=size, **options)(x, y), whole)


class TestOnSpikingNetworks:
    @needs("torchattacks", "foolbox", "art", "pyautoattack")
    @pytest.mark.parametrize("rule", ["bptt", "bptr", "rga"])
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("torchattacks:PGD", {}),
            ("foolbox:LinfPGD", {"steps": 10}),
            ("art:ProjectedGradientDescent", {"max_iter": 10}),
            ("autoattack", {}),
        ],
    )
    def test_through_gradient_rules(self, name, options, rule):
        """A trained network falls, and its plain twin with it."""
        model = am.trained_snn()
        x, y = am.digits(16)
        right = model.reference(x).argmax(1) == y
        x, y = x[right], y[right]
        eps = 0.5 if name == "autoattack" else 32 / 255
        adv = build_attack(name, model.through(gradients.build_rule(rule)), eps=eps, **options)(x, y)
        assert fooled(model, adv, y).float().mean() > 0.3
        assert torch.equal(fooled(model, adv, y), model.reference(adv).argmax(1) != y)

    @needs("torchattacks")
    def test_a_rule_that_learns_starts_afresh_with_every_batch(self):
        """ASSG: an image's result does not depend on the one before it, nor on earlier passes."""
        view = am.trained_snn().through(gradients.ASSG())
        x, y = am.digits(4)
        attack = TorchAttack(view, "PGD", 0.02, steps=4, random_start=False, batch_size=1)
        there = attack(x, y)
        view(x[:1].clone().requires_grad_())
        assert torch.equal(attack(x.flip(0), y.flip(0)).flip(0), there)

    @needs("torchattacks")
    def test_work_is_counted(self):
        model, x, y = case()
        counting = am.Counting(model)
        attack = TorchAttack(counting, "PGD", 0.1, steps=7)
        attack(x, y)
        assert attack.work.forwards == counting.samples == 7 * len(x) + 1  # the one finds the number of classes
        assert attack.work.backwards == 7 * len(x) + 1


class TestTargeted:
    @needs("torchattacks", "foolbox", "art")
    @pytest.mark.parametrize(
        "name",
        [
            "torchattacks:PGD",
            "torchattacks:CW",
            "foolbox:LinfPGD",
            "foolbox:NewtonFoolAttack",
            "art:ProjectedGradientDescent",
            "art:SaliencyMapMethod",
        ],
    )
    def test_labels_are_targets(self, name):
        model, x, y = case()
        if name == "foolbox:NewtonFoolAttack":  # it knows no targets; the library says so
            with pytest.raises(RobustSNNError, match="unsupported criterion"):
                build_attack(name, model, eps=1.0, targeted=True)(x, y)
            return
        goal = (y + 1) % 4
        options = {"norm": "L2", "eps": 4.0, "c": 5.0, "lr": 0.05} if name.endswith("CW") else {"eps": 0.5}
        options |= {"theta": 0.5, "norm": "L0", "eps": 20} if name.endswith("SaliencyMapMethod") else {}
        adv = build_attack(name, model, targeted=True, **options)(x, goal)
        assert (model(adv).argmax(1) == goal).float().mean() > 0.5

    @needs("torchattacks", "art")
    @pytest.mark.parametrize("name", ["torchattacks:FAB", "torchattacks:DeepFool", "torchattacks:APGD", "art:DeepFool"])
    def test_no_targeted_mode(self, name):
        with pytest.raises(RobustSNNError, match=f"{name} has no targeted mode"):
            build_attack(name, case()[0], targeted=True)


class TestNames:
    @needs("torchattacks", "foolbox", "art", "pyautoattack")
    def test_any_case(self):
        for name, spelled in {
            "torchattacks:pgd": "PGD",
            "TorchAttacks:PGD": "PGD",
            "foolbox:linfpgd": "LinfPGD",
            "ART:projectedgradientdescent": "ProjectedGradientDescent",
            "AutoAttack": "standard",
            "autoattack:RAND": "rand",
        }.items():
            entry = adapter_for(name)
            assert entry is not None
            assert entry.attack == spelled
            assert build_attack(name, case()[0], eps=0.1).name == spelled
        assert adapter_for("torchattacks:Square").takes_gradient is False
        assert attack_entry("torchattacks:PGD").family == "adversarial"

    @pytest.mark.parametrize("name", ["pgd", "cleverhans:pgd", "", "PGD:torchattacks", None, 3])
    def test_names_of_nobody(self, name):
        assert adapter_for(name) is None

    @needs("torchattacks", "foolbox", "art")
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("torchattacks:PDG", "PGD"),
            ("foolbox:LinfPDG", "LinfPGD"),
            ("art:ProjectedGradient", "ProjectedGradientDescent"),
            ("autoattack:randm", "rand"),
        ],
    )
    def test_the_nearest_is_suggested(self, name, near):
        with pytest.raises(UnknownNameError, match=f"Did you mean '{near}'"):
            build_attack(name, case()[0])

    @needs("torchattacks", "foolbox", "art")
    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("torchattacks:PGD", {"step": 3}, "torchattacks:PGD has no parameter 'step'. Did you mean steps"),
            ("torchattacks:PGD", {"norm": "L1"}, "bounded in Linf, not in L1"),
            ("torchattacks:FGSM", {"norm": "L2"}, "bounded in Linf, not in L2; in L2 there are PGD"),
            ("torchattacks:PGDL2", {"norm": "Linf"}, "bounded in L2, not in Linf"),
            ("torchattacks:APGD", {"norm": "L1"}, "bounded in Linf or L2, not in L1"),
            ("torchattacks:Pixle", {"restarts": -1}, "torchattacks:Pixle refuses its parameters: restarts"),
            ("foolbox:LinfPGD", {"norm": "L2"}, "foolbox:LinfPGD is bounded in Linf, not in L2"),
            ("foolbox:LinfPGD", {"epsilons": 1}, "has no parameter 'epsilons'"),
            ("art:BasicIterativeMethod", {"norm": "L2"}, "bounded in Linf, not in L2"),
            ("art:FastGradientMethod", {"eps_stp": 1}, "Did you mean eps_step"),
            ("torchattacks:PGD", {"eps": -1}, "eps must be a finite number of at least 0"),
            ("torchattacks:PGD", {"norm": "L7"}, "unknown norm 'L7'"),
        ],
    )
    def test_parameters_are_checked_at_once(self, name, options, words):
        with pytest.raises(RobustSNNError, match=words.replace("(", r"\(")):
            build_attack(name, case()[0], **options)

    @needs("torchattacks", "art")
    @pytest.mark.parametrize(
        ("name", "options", "classes"),
        [
            ("torchattacks:APGDT", {}, 3),
            ("torchattacks:APGD", {"loss": "dlr"}, 2),
            ("art:AutoProjectedGradientDescent", {"loss_type": "difference_logits_ratio"}, 2),
        ],
    )
    def test_losses_that_need_more_classes(self, name, options, classes):
        model, x, y = case(classes)
        with pytest.raises(RobustSNNError, match=rf"needs {classes + 1} classes"):
            build_attack(name, model, eps=0.1, **options)(x, y)

    @pytest.mark.parametrize(
        ("module", "name", "hint"),
        [
            ("torchattacks", "torchattacks:PGD", "pip install --no-deps torchattacks"),
            ("foolbox", "foolbox:LinfPGD", "pip install foolbox"),
            ("art", "art:DeepFool", "pip install adversarial-robustness-toolbox"),
        ],
    )
    def test_not_installed(self, module, name, hint, monkeypatch):
        for loaded in [m for m in sys.modules if m == module or m.startswith(f"{module}.")]:
            monkeypatch.setitem(sys.modules, loaded, None)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(RobustSNNError, match=f"is not installed .*{hint}"):
            adapter_for(name)
        assert available()[name.partition(":")[0]][0].startswith(f"not installed: {hint}")

    @needs("torchattacks", "foolbox", "art")
    def test_what_is_available_can_be_asked_for(self):
        for name in [name for names in available().values() for name in names]:
            assert adapter_for(name) is not None

    def test_libraries_are_imported_when_asked_for(self):
        """In a fresh process: importing the attacks imports no library."""
        code = "import sys, robustsnn.attacks as a; print([m for m in ('torchattacks', 'foolbox', 'art') if m in sys.modules])"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"
