"""SpikingAutoAttack: a cascade is the union of its members, whatever the order, the batches and the model."""

from __future__ import annotations

import functools

import attack_models as am
import pytest
import torch
from torch import nn

from robustsnn.attacks import PGD, SpikingAutoAttack, build_attack
from robustsnn.attacks.ensemble import PRESETS, Member
from robustsnn.attacks.ensemble import cascade as cascade_module
from robustsnn.attacks.image.base import ImageAttack
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import build_rule
from robustsnn.models import NeuronSpec

SMALL = (
    Member("fgsm", 1, "bptr"),
    Member("apgd", 4, "rga", {"loss": "dlr"}),
    Member("sa-pgd", 5, "assg"),
    Member("square", 30),
)


@pytest.fixture(autouse=True)
def _one_step_attacks_take_no_steps(monkeypatch):
    """Members have steps; FGSM has none."""
    build = cascade_module.build_native

    def built(name, model, steps=None, **parameters):
        return build(name, model, **parameters) if name == "fgsm" else build(name, model, steps=steps, **parameters)

    monkeypatch.setattr(cascade_module, "build_native", built)


@functools.cache
def case():
    """A spiking network on digits, half trained, and 24 images; not all are right."""
    torch.manual_seed(3)
    data = load("digits")
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), NeuronSpec(v_threshold=0.5)(), nn.Linear(48, 10), NeuronSpec(v_threshold=0.5)()
    )
    model = SpikingClassifier(nn.Sequential(net, nn.Linear(10, 10)), 4)
    images, labels = data.train.batch(slice(400))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels = data.test.batch(slice(24))
    return model.eval(), images, labels


def standing(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).tolist()


def test_it_is_the_union_of_its_members():
    model, x, y = case()
    alone = []
    for member in SMALL:
        one = SpikingAutoAttack(model, eps=0.08, members=[member])
        alone.append(standing(model, one(x, y), y))
    together = SpikingAutoAttack(model, eps=0.08, members=SMALL)
    found = standing(model, together(x, y), y)
    assert found == [all(marks) for marks in zip(*alone)]
    assert 0 < sum(found) < min(map(sum, alone)), "no member does it alone, and something is left"


def test_the_order_changes_the_examples_and_not_who_stands():
    model, x, y = case()
    forward = SpikingAutoAttack(model, eps=0.08, members=SMALL)(x, y)
    backward = SpikingAutoAttack(model, eps=0.08, members=SMALL[::-1])(x, y)
    assert standing(model, forward, y) == standing(model, backward, y)
    assert not torch.equal(forward, backward)


def test_batches_make_no_difference():
    model, x, y = case()
    whole = SpikingAutoAttack(model, eps=0.08, members=SMALL)
    parts = SpikingAutoAttack(model, eps=0.08, members=SMALL, batch_size=7)
    images, images_in_parts = whole(x, y), parts(x, y)
    same = (images == images_in_parts).flatten(1).all(1)
    assert same.sum() >= len(x) - 2, "matrix products of one row and of many round differently now and then"
    assert whole.fooled_by == parts.fooled_by
    assert [(e.tried, e.fooled) for e in whole.log] == [(e.tried, e.fooled) for e in parts.log]


def test_the_log_says_who_did_what():
    model, x, y = case()
    attack = SpikingAutoAttack(model, eps=0.08, members=SMALL)
    for _ in range(2):  # a second call starts a new log
        found = standing(model, attack(x, y), y)
        clean = standing(model, x, y)
        assert len(attack.fooled_by) == len(x)
        assert [name == "clean" for name in attack.fooled_by] == [not right for right in clean]
        assert [name == "" for name in attack.fooled_by] == found
        for entry in attack.log:
            assert entry.fooled == attack.fooled_by.count(str(entry.member))
        tried = [entry.tried for entry in attack.log]
        left = [sum(clean)]
        for entry in attack.log:
            left.append(left[-1] - entry.fooled)
        assert tried == left[:-1]
        assert attack.work.backwards == sum(entry.work.backwards for entry in attack.log) > 0


def test_what_nothing_fools_comes_back_with_the_highest_margin_found():
    model, x, y = case()
    attack = SpikingAutoAttack(model, eps=0.02, members=SMALL)
    adversarial = attack(x, y)
    left = torch.tensor([name == "" for name in attack.fooled_by])
    assert left.any()

    def margin(images):
        z = model(images).detach()
        return (z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0])[left]

    assert (margin(adversarial) >= margin(x)).all()
    assert (margin(adversarial) > margin(x)).any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("eps", [0.0, 0.05, 2.0])
def test_stays_in_the_ball(norm, eps):
    model, x, y = case()
    adversarial = SpikingAutoAttack(model, eps=eps, norm=norm, members=SMALL)(x, y)
    assert adversarial.isfinite().all()
    assert am.distance(adversarial, x, norm).max() <= eps * (1 + 1e-5) + 1e-7
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


def test_targeted():
    model, x, y = case()
    targets = (y + 1) % 10
    attack = SpikingAutoAttack(model, eps=0.5, members=SMALL, targeted=True)
    adversarial = attack(x, targets)
    hit = (model(adversarial).argmax(1) == targets).tolist()
    assert [name != "" for name in attack.fooled_by] == hit
    assert sum(hit) > 12


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes):
    model = am.Smooth(16, classes=classes).float()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    members = (Member("apgd", 10, "bptt", {"loss": "dlr"}), Member("apgd-t", 10, "rga"))
    attack = SpikingAutoAttack(model, eps=0.9, members=members)
    assert standing(model, attack(x, y), y) == [False] * 6


def test_a_model_without_rules_is_attacked_through_its_own_gradient_once():
    model = am.Smooth(16, classes=4).float()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    members = (Member("apgd", 5, "rga"), Member("apgd", 5, "hart"), Member("apgd", 6, "bptt"), Member("square", 20))
    attack = SpikingAutoAttack(model, eps=0.0, members=members)
    attack(x, y)
    assert [entry.tried for entry in attack.log] == [6, 0, 6, 6]
    assert "own gradient" in attack.log[0].note
    assert "earlier member" in attack.log[1].note
    assert attack.log[3].note == ""


def test_the_rule_of_a_view_does_not_matter():
    model, x, y = case()
    view = model.through(build_rule("bptr"))
    of_view = SpikingAutoAttack(view, eps=0.08, members=SMALL[:2])(x, y)
    assert torch.equal(of_view, SpikingAutoAttack(model, eps=0.08, members=SMALL[:2])(x, y))


def test_stochastic_models_get_eot_unless_told_otherwise():
    encoder_model = SpikingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), NeuronSpec()()), 4, "poisson")
    seen = []

    class Watched(SpikingAutoAttack):
        def _attack(self, *args, **kwargs):
            attack = super()._attack(*args, **kwargs)
            if isinstance(attack, ImageAttack):
                seen.append(getattr(attack, "eot_iter", None))
            return attack

    Watched(encoder_model, members=SMALL)
    assert seen == [10, 10, 10, None]
    seen.clear()
    Watched(encoder_model, members=SMALL, eot_iter=3)
    assert seen == [3, 3, 3, None]
    seen.clear()
    Watched(case()[0], members=SMALL)
    assert seen == [1, 1, 1, None]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fool_at_least_what_pgd_fools(preset):
    if preset == "full":
        pytest.skip("takes a minute; its members are a superset of standard's kinds")
    model, x, y = case()
    adversarial = SpikingAutoAttack(model, eps=0.05, preset=preset)(x, y)
    own = PGD(model, eps=0.05, steps=40)(x, y)
    assert sum(standing(model, adversarial, y)) <= sum(standing(model, own, y))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_member_of_a_preset_exists(preset):
    model, _, _ = case()
    for member in PRESETS[preset]:
        view = model if member.rule is None else model.through(build_rule(member.rule, **member.rule_params))
        assert build_attack(member.attack, view, steps=member.steps, **member.attack_params).family == "adversarial"
    assert len({str(member) for member in PRESETS[preset]}) == len(PRESETS[preset])


def test_errors():
    model, _, _ = case()
    with pytest.raises(UnknownNameError, match=r"unknown preset 'standart'. Did you mean 'standard'"):
        SpikingAutoAttack(model, preset="standart")
    with pytest.raises(RobustSNNError, match="no member of the ensemble is defined in L0"):
        SpikingAutoAttack(model, eps=3, norm="L0", members=[Member("square", 10)])
    with pytest.raises(RobustSNNError, match="eot_iter"):
        SpikingAutoAttack(model, eot_iter=0)


@pytest.mark.parametrize(
    ("slip", "message"),
    [
        (Member("agpd", 5, "rga"), "unknown attack 'agpd'"),
        (Member("apgd", 5, "rgaa"), "unknown gradient rule 'rgaa'"),
        (Member("apgd", 5, "rga", {"los": "dlr"}), "attack apgd: .*'los'"),
        (Member("apgd", 5, "hart", {}, {"gama": 1.0}), "gradient rule hart: .*'gama'"),
    ],
)
def test_a_member_with_a_mistake_is_not_left_out_in_silence(slip, message):
    model, _, _ = case()
    with pytest.raises(RobustSNNError, match=message):
        SpikingAutoAttack(model, members=[*SMALL, slip])


def test_members_keep_to_the_memory(monkeypatch):
    """A rule takes more of it than the model's own gradient, by which the ensemble cuts its batches."""
    model, x, y = case()
    asked = []
    monkeypatch.setattr(ImageAttack, "_fitting", lambda attack, images: asked.append(attack.memory) or len(images))
    SpikingAutoAttack(model, eps=0.01, members=[Member("sa-pgd", 1, "assg")], memory="2MB")(x, y)
    assert asked == [2_000_000, 2_000_000]
