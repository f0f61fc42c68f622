"""The members of each preset, in the order in which they run: cheap successes first, then what finds the most.

Order and steps were chosen on the successes per second that `SpikingAutoAttack.log` shows for networks trained plainly, with SR
and with AT on CIFAR-10 (images that docs/attacks.md does not report on). ASSG finds nearly all that the other rules find
and much more. It has to learn first: with a memory of 0.5 in place of the published 0.9 it needs half of the steps.
"""

from __future__ import annotations

from robustsnn.attacks.ensemble.member import Member

_ATAN = {"surrogate": "ATan", "alpha": 2.0, "detach_reset": True}
_ATAN_RESET = {"surrogate": "ATan", "alpha": 2.0, "detach_reset": False}
_SIGMOID = {"surrogate": "Sigmoid", "alpha": 4.0, "detach_reset": True}
_TRIANGLE = {"surrogate": "triangle", "alpha": 1.0, "detach_reset": False}
_QUICK_TO_LEARN = {"beta1": 0.5, "beta2": 0.5}
_DLR = {"loss": "dlr"}

_CHEAP = (Member("apgd", 10, "rga"), Member("apgd", 20, "bptt", _DLR, _ATAN))

PRESETS: dict[str, tuple[Member, ...]] = {
    "quick": (*_CHEAP, Member("apgd", 20, "assg", {}, _QUICK_TO_LEARN)),
    "standard": (
        *_CHEAP,
        Member("apgd", 40, "assg", {}, _QUICK_TO_LEARN),
        Member("sa-pgd", 100, "assg", _DLR),
        Member("apgd", 100, "assg"),
        Member("apgd", 50, "hart", _DLR, {"gamma": 0.5}),
        Member("apgd", 50, "bptt", {}, _SIGMOID),
        Member("apgd", 30, "pdsg", _DLR),
        Member("apgd-t", 20, "assg", {}, _QUICK_TO_LEARN),
        Member("square", 1000),
    ),
    "full": (
        *_CHEAP,
        Member("apgd", 40, "assg", {}, _QUICK_TO_LEARN),
        *(
            Member(attack, 100, rule, loss, params)
            for rule, params in (
                ("assg", {}),
                ("assg", {"a": 0.45}),
                ("hart", {"gamma": 0.5}),
                ("hart", {}),
                ("rga", {}),
                ("bptr", {}),
                ("pdsg", {}),
                ("cba", {}),
                ("mix", {}),
                ("bptt", _ATAN),
                ("bptt", _ATAN_RESET),
                ("bptt", _TRIANGLE),
                ("bptt", _SIGMOID),
            )
            for attack, loss in (("apgd", {}), ("apgd", _DLR), ("sa-pgd", _DLR))
        ),
        Member("apgd-t", 100, "assg"),
        Member("apgd-t", 100, "bptt", {}, _ATAN),
        Member("fab-t", 100, "bptt", {}, _ATAN),
        Member("square", 5000),
    ),
}
