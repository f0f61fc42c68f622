"""Objectives by name and as text: what is read, what is refused, and where the error points."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.defenses import AT, OBJECTIVES, RAT, SR, TGO, CrossEntropy, build_objective, parse_objective
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTT


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_builds_the_defaults(name):
    built = build_objective(name)
    assert repr(parse_objective(name)) == repr(parse_objective(f" {name.upper()} ( ) ")) == repr(built)
    assert OBJECTIVES[name].about
    assert all(f"{option}=" in repr(built) for option in OBJECTIVES[name].options), "repr tells runs apart"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sr(lam=0.002) + at(eps=8/255, steps=7, rule=bptr)", SR(lam=0.002) + AT(eps=8 / 255, steps=7, rule="bptr")),
        ("SR(0.004,l1)", None),
        ("sr(0.004, 1e-2, l2)", SR(0.004, 0.01, "l2")),
        ("at(8/255,attack=fgsm)+sr(.002)", AT(8 / 255, attack="fgsm") + SR(0.002)),
        ("at(random_start=FALSE, alpha=none)", AT(random_start=False)),
        ("at(attack=apgd(loss=dlr, n_restarts=2))", AT(attack="apgd", params={"loss": "dlr", "n_restarts": 2})),
        ("at(norm=L2, eps=1.5)", AT(eps=1.5, norm="L2")),
        ("rat(b=4e-3, rule=bptr) + tgo(ramp=false)", RAT(b=0.004, rule="bptr") + TGO(ramp=False)),
        ("ce", CrossEntropy()),
    ],
)
def test_texts(text, expected):
    if expected is None:
        with pytest.raises(RobustSNNError, match="step h"):
            parse_objective(text)
    else:
        assert repr(parse_objective(text)) == repr(expected)


def test_a_rule_may_have_parameters():
    rule = parse_objective("at(rule=bptt(surrogate=ATan, alpha=4, detach_reset=true))").rule
    assert isinstance(rule, BPTT)
    assert repr(rule) == repr(BPTT("ATan", alpha=4, detach_reset=True))


@given(lam=st.floats(0, 1e6), eps=st.integers(0, 255), steps=st.integers(1, 50), start=st.booleans())
@settings(max_examples=60, deadline=None)
def test_numbers_survive(lam, eps, steps, start):
    text = f"sr( lam = {lam!r} )+at(eps={eps}/255,steps={steps},random_start={str(start).lower()})"
    sr, at = parse_objective(text).parts
    assert (sr.lam, at.eps, at.steps, at.random_start) == (lam, eps / 255, steps, start)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", RobustSNNError, "character 1.*the text ends"),
        ("sr +", RobustSNNError, "character 5"),
        ("sr(lam=0.002", RobustSNNError, r"',' or '\)' at character 13"),
        ("sr(lam=)", RobustSNNError, "a number or a name at character 8"),
        ("sr(lam=1/0)", RobustSNNError, "zero at character 10"),
        ("sr(lam=8/x)", RobustSNNError, "a number at character 10"),
        ("sr(lam=1) at", RobustSNNError, r"'\+' or the end at character 11"),
        ("sr(lam=1, lam=2)", RobustSNNError, "lam twice.*character 11"),
        ("sr(lam=__import__('os'))", RobustSNNError, 'unexpected "\'" at character 19'),
        ("sr(lam=pgd(eps=1))", RobustSNNError, "only rule and attack"),
        ("sr(1, 2, l1, 4)", RobustSNNError, "key=value"),
        ("st(lam=1)", UnknownNameError, "character 1 .*'st'.*Known"),
        ("at + trade(beta=1)", UnknownNameError, "character 6 .*Did you mean 'trades'"),
        ("sr(lamb=1)", UnknownNameError, "character 4 .*Did you mean 'lam'"),
        ("at(rule=bptx)", UnknownNameError, "Did you mean 'bptt'"),
        ("at(attack=pdg)", UnknownNameError, "Did you mean 'pgd'"),
        ("at(attack=pgd(lost=dlr))", RobustSNNError, "lost"),
        ("sr(lam=-1)", RobustSNNError, "lam"),
        ("at + mart", RobustSNNError, "contradictory"),
        (7, RobustSNNError, "a text"),
    ],
)
def test_errors_say_where(text, kind, words):
    with pytest.raises(kind, match=words) as caught:
        parse_objective(text)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="srat()+,=/.-0129 lam_e'\"[]*", max_size=25))
@settings(max_examples=200, deadline=None)
def test_nothing_but_readable_errors(text):
    with suppress(RobustSNNError):
        parse_objective(text)


def test_options_by_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'steps'"):
        build_objective("at", step=3)
    with pytest.raises(UnknownNameError, match="Known"):
        build_objective("nothing")
