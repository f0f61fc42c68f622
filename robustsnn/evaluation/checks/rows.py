"""Checks that need no model: the verdicts of the attacks, image by image, held against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from robustsnn.evaluation.checks.check import Check, Verdict, first_images, not_run, p_value, plural, shown
from robustsnn.evaluation.checks.kinds import Kind
from robustsnn.evaluation.checks.outcomes import Outcomes, outcomes_of
from robustsnn.evaluation.statistics import mcnemar_exact, paired_difference

TOLERATED = 0.01
"""Share of the images (at least one image) that an attack may find by luck where a stronger one does not."""
GRAVE = 0.05
"""Share of the images from which such finds say that the stronger attack does not work."""
HINGES = 0.10
"""Loss of the worst case, without its strongest rule, from which the result hangs on that rule."""
SIGNIFICANT = 0.05
GRADIENT: tuple[Kind, ...] = ("one-step", "iterative")
ATTACKS: tuple[Kind, ...] = (*GRADIENT, "black-box")


def checks_from_rows(rows: Mapping[str, np.ndarray], names: Mapping[str, str] | None = None) -> list[Check]:
    """Every check that the rows of one model allow; a pure function.

    A find of a weaker attack that the stronger ones miss is tolerated on 1 % of the images (or one image): attacks are
    random. More is a warning, 5 % a failure.

    Args:
        rows: columns as `robustsnn.evaluation.measurement.measure` writes them.
        names: name in the registry for each label of an attack; a label that is missing is taken for a name.

    Raises:
        RobustSNNError: a column is missing, or there are no rows without an attack.

    Source: Carlini et al., "On evaluating adversarial robustness" (2019), section 5; Athalye et al. (ICML 2018), section
    3.1. The thresholds are ours.
    """
    outcomes = outcomes_of(rows, names)
    return [
        _one_step(outcomes),
        _missed_by_gradients(
            outcomes,
            "black-box",
            "black-box",
            "Gradients are at least as strong as attacks without them",
            "No attack without gradients was run",
            "Add `--attack square`.",
        ),
        _missed_by_gradients(
            outcomes,
            "noise",
            "noise",
            "Random noise finds nothing that gradients miss",
            "No noise was measured",
            "Add `noises:` to the configuration.",
        ),
        _monotone(outcomes),
        _rules(outcomes),
        _verified(outcomes),
        _worst_case(outcomes),
    ]


def telling_eps(outcomes: Outcomes) -> float | None:
    """The radius at which the worst case is nearest to half of the clean accuracy, where attacks differ most.

    None where nothing but noise was measured.
    """
    radii = outcomes.radii(*ATTACKS)
    half = outcomes.right.sum() / 2
    return min(radii, key=lambda eps: abs(int(outcomes.worst_case(eps).sum()) - half), default=None)


def _one_step(outcomes: Outcomes) -> Check:
    name, title = "one-step", "Iterative attacks are at least as strong as one step"
    places = sorted(
        {(o.rule, o.eps) for o in outcomes.of("one-step")} & {(o.rule, o.eps) for o in outcomes.of("iterative")}
    )
    if not places:
        return not_run(
            name,
            title,
            "There is no pair of a one-step and an iterative attack through the same rule at the same eps.",
            "Add `--attack fgsm --attack pgd`.",
        )
    found = []
    for rule, eps in places:
        once = _fooled(outcomes, eps, ["one-step"], rule)
        often = _fooled(outcomes, eps, ["iterative"], rule)
        found.append((rule, eps, once, often))
    rule, eps, once, often = max(found, key=lambda entry: int((entry[2] & ~entry[3]).sum()))
    missed, n = once & ~often, len(once)
    weaker = [(r, e) for r, e, o, f in found if o.sum() > f.sum() and mcnemar_exact(o, f) < SIGNIFICANT]
    verdict: Verdict = "fail" if weaker else _by_share(int(missed.sum()), n)
    evidence = (
        f"Through {rule or 'no rule'} at eps {shown(eps)}, {int(missed.sum())} of {n} images fall to one step and to no "
        f"iterative attack (one step fools {int(once.sum())}, iterative attacks fool {int(often.sum())}); this is the worst "
        f"of {len(found)} such pairs."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {
            "n": n,
            "pairs": len(found),
            "eps": eps,
            "rule": rule,
            "missed": int(missed.sum()),
            "one_step": int(once.sum()),
            "iterative": int(often.sum()),
            "weaker_pairs": len(weaker),
        },
        first_images(outcomes.images[missed]),
        "" if verdict == "pass" else "Give the iterative attacks more and smaller steps (`--steps 50`), and add rules.",
    )


def _missed_by_gradients(outcomes: Outcomes, kind: Kind, name: str, title: str, reason: str, advice: str) -> Check:
    last = {o.eps for o in outcomes.measured if o.last_resort is not None} if kind == "black-box" else set()
    radii = [eps for eps in outcomes.radii(*GRADIENT) if eps in {*outcomes.radii(kind), *last}]
    if not radii:
        return not_run(name, title, f"{reason} at an eps with a gradient attack.", advice)
    finds = {}
    for eps in radii:
        without, gradients = _fooled(outcomes, eps, [kind]), np.zeros(len(outcomes.images), bool)
        for o in outcomes.of(*GRADIENT):
            if o.eps == eps and o.last_resort is not None and kind == "black-box":
                without, gradients = without | o.last_resort, gradients | (o.fooled & ~o.last_resort)
            elif o.eps == eps:
                gradients = gradients | o.fooled
        finds[eps] = (without & ~gradients, without, gradients)
    eps, (missed, without, gradients) = max(finds.items(), key=lambda item: int(item[1][0].sum()))
    n, count = len(missed), int(missed.sum())
    stronger = [e for e, (_, a, b) in finds.items() if a.sum() > b.sum() and mcnemar_exact(a, b) < SIGNIFICANT]
    verdict: Verdict = "fail" if stronger else _by_share(count, n)
    by, verb = ("noise", "fools") if kind == "noise" else ("attacks without gradients", "fool")
    evidence = (
        f"At eps {shown(eps)}, {count} of {n} images fall to {by} and to no gradient attack ({by} {verb} "
        f"{int(without.sum())}, gradients fool {int(gradients.sum())}); at no other of {len(radii)} radii are there more."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {
            "n": n,
            "eps": eps,
            "missed": count,
            "without_gradients": int(without.sum()),
            "gradients": int(gradients.sum()),
            "radii": len(radii),
        },
        first_images(outcomes.images[missed]),
        ""
        if verdict == "pass"
        else "The gradient attacks are too weak: give them another loss and more steps (`--attack apgd-dlr --steps 100`), and "
        "add rules (`robustsnn list rules`).",
    )


def _monotone(outcomes: Outcomes) -> Check:
    name, title = "monotone", "What falls at one eps falls at every larger one"
    radii = outcomes.radii(*ATTACKS)
    if len(radii) < 2:
        return not_run(name, title, "Attacks were run at one eps only.", "Give a second, larger `--eps`.")
    worst = {eps: outcomes.right & ~outcomes.worst_case(eps) for eps in radii}
    lost = {(low, high): worst[low] & ~worst[high] for low, high in pairwise(radii)}
    (low, high), recovered = max(lost.items(), key=lambda item: int(item[1].sum()))
    n, count = len(recovered), int(recovered.sum())
    risen = [high for low, high in pairwise(radii) if worst[high].sum() < worst[low].sum()]
    verdict = _by_share(count, n)
    if risen and verdict == "pass" and count > 1:
        verdict = "warn"
    evidence = (
        f"{count} of {n} images fall at eps {shown(low)} to some attack and to none at {shown(high)} (the most among "
        f"{plural(len(lost), 'step')} of the grid); the number that falls drops at {plural(len(risen), 'step')}."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {"n": n, "recovered": count, "eps": low, "larger_eps": high, "drops": len(risen)},
        first_images(outcomes.images[recovered]),
        "" if verdict == "pass" else "Take more steps or restarts at the larger eps (`--steps 50`).",
    )


def _rules(outcomes: Outcomes) -> Check:
    name, title = "rules", "The result does not hang on one gradient rule"
    ruled = [o for o in outcomes.of(*GRADIENT) if o.rule]
    eps = telling_eps(outcomes)
    rules = sorted({o.rule for o in ruled if o.eps == eps})
    if eps is None or len(rules) < 2:
        return not_run(
            name,
            title,
            f"Gradients were taken through {plural(len(rules), 'rule')} only.",
            "Add rules of another family, such as `--rule bptt --rule bptr`.",
        )
    standing = {rule: outcomes.right & ~_fooled(outcomes, eps, GRADIENT, rule) for rule in rules}
    strongest = min(rules, key=lambda rule: int(standing[rule].sum()))
    weakest = max(rules, key=lambda rule: int(standing[rule].sum()))
    everything = np.logical_and.reduce(list(standing.values()))
    others = np.logical_and.reduce([standing[rule] for rule in rules if rule != strongest])
    spread = paired_difference(standing[weakest], standing[strongest])
    hinge, p = paired_difference(others, everything), mcnemar_exact(standing[weakest], standing[strongest])
    n = len(everything)
    verdict: Verdict = "warn" if hinge.value >= HINGES and hinge.low > 0 else "pass"
    best, poorest, rest, all_of_them = (
        _percent(x) for x in (standing[strongest], standing[weakest], others, everything)
    )
    evidence = (
        f"At eps {shown(eps)} each rule alone, over its attacks, leaves from {best} ({strongest}) to {poorest} ({weakest}) of "
        f"{n} images correct (exact McNemar {p_value(p)}); without {strongest} the worst case would be {rest} instead of "
        f"{all_of_them}."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {
            "n": n,
            "eps": eps,
            "accuracy": {rule: float(standing[rule].mean()) for rule in rules},
            "strongest": strongest,
            "weakest": weakest,
            "spread": spread.as_dict(),
            "p_value": p,
            "without_strongest": hinge.as_dict(),
        },
        first_images(outcomes.images[others & ~everything]) if verdict == "warn" else (),
        ""
        if verdict == "pass"
        else f"Other settings near {strongest} may be stronger still: add neighbours of it (`robustsnn list rules`).",
    )


def _verified(outcomes: Outcomes) -> Check:
    name, title = "verified", "What attacks claim holds on the untouched model"
    attacks = outcomes.of(*ATTACKS)
    if not attacks:
        return not_run(name, title, "No attack was run.", "Add `--attack pgd`.")
    n = len(outcomes.images)
    worst = max(attacks, key=lambda o: int((o.claimed & ~o.fooled).sum()))
    lost = worst.claimed & ~worst.fooled
    illegal = sum(int(o.illegal.sum()) for o in attacks)
    claimed, confirmed = (
        sum(int(o.claimed.sum()) for o in attacks),
        sum(int((o.claimed & o.fooled).sum()) for o in attacks),
    )
    verdict = _by_share(int(lost.sum()), n)
    if illegal and verdict == "pass":
        verdict = "warn"
    evidence = (
        f"{confirmed} of {claimed} claimed successes were confirmed; the most are lost by {worst.attack}"
        f"{f' through {worst.rule}' if worst.rule else ''} at eps {shown(worst.eps)} ({int(lost.sum())} of {n} images); "
        f"{plural(illegal, 'example')} left the ball."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {"n": n, "claimed": claimed, "confirmed": confirmed, "lost_most": int(lost.sum()), "illegal": illegal},
        first_images(outcomes.images[lost | worst.illegal]),
        ""
        if verdict == "pass"
        else "Find out why the attacked and the reference model differ: randomness, state, or time steps.",
    )


def _worst_case(outcomes: Outcomes) -> Check:
    name, title = "worst-case", "The headline is the worst case of every image"
    attacks = outcomes.of(*ATTACKS)
    eps = telling_eps(outcomes)
    if eps is None:
        return not_run(name, title, "No attack was run.", "Add `--attack pgd`.")
    everything = outcomes.worst_case(eps)
    single = min((o for o in attacks if o.eps == eps), key=lambda o: int((outcomes.right & ~o.fooled).sum()))
    alone = outcomes.right & ~single.fooled
    radii = outcomes.radii(*ATTACKS)
    full = {(o.attack, o.rule) for o in attacks}
    uneven = [e for e in radii if {(o.attack, o.rule) for o in attacks if o.eps == e} != full]
    verdict: Verdict = "warn" if outcomes.incomplete or uneven else "pass"
    problems = []
    if outcomes.incomplete:
        problems.append(
            f"{plural(len(outcomes.incomplete), 'measurement')} lack images, such as {outcomes.incomplete[0]}"
        )
    if uneven:
        problems.append(f"not every attack was run at eps {', '.join(map(shown, uneven))}")
    through = f" through {single.rule}" if single.rule else ""
    evidence = (
        f"At eps {shown(eps)} {_percent(everything)} of {len(everything)} images survive all {plural(len(full), 'attack')}, and "
        f"{_percent(alone)} the strongest single one ({single.attack}{through}){''.join(f'; {p}' for p in problems)}."
    )
    return Check(
        name,
        title,
        verdict,
        evidence,
        {
            "n": len(everything),
            "eps": eps,
            "attacks": len(full),
            "worst_case": float(everything.mean()),
            "strongest_single": float(alone.mean()),
            "incomplete": len(outcomes.incomplete),
        },
        (),
        "" if verdict == "pass" else "Run the same command again: it measures what is missing.",
    )


def _fooled(outcomes: Outcomes, eps: float, kinds: Collection[Kind], rule: str | None = None) -> np.ndarray:
    """Images that fall at ``eps`` to attacks of some kinds, through one rule or through any."""
    return outcomes.fooled_by(lambda o: o.eps == eps and o.kind in kinds and rule in (None, o.rule))


def _by_share(count: int, n: int) -> Verdict:
    if count <= max(1, TOLERATED * n):
        return "pass"
    return "fail" if count > GRAVE * n else "warn"


def _percent(verdicts: np.ndarray) -> str:
    return f"{100 * verdicts.mean():.1f} %"
