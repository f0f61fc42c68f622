"""The members of each preset, in the order in which they run."""

from __future__ import annotations

from robustsnn.attacks.ensemble.member import Member

_ATAN = {"surrogate": "ATan", "alpha": 2.0, "detach_reset": True}
_ATAN_RESET = {"surrogate": "ATan", "alpha": 2.0, "detach_reset": False}
_TRIANGLE = {"surrogate": "triangle", "alpha": 1.0, "detach_reset": False}
_DLR = {"loss": "dlr"}


def _square(queries: int) -> Member:
    return Member("square", queries)


PRESETS: dict[str, tuple[Member, ...]] = {
    "quick": (
        Member("apgd", 10, "rga"),
        Member("apgd", 20, "bptt", _DLR, _ATAN),
        Member("sa-pgd", 20, "assg"),
    ),
    "standard": (
        Member("apgd", 10, "rga"),
        Member("apgd", 20, "bptt", _DLR, _ATAN),
        Member("apgd", 50, "hart", _DLR),
        Member("apgd", 50, "rga", _DLR),
        Member("sa-pgd", 100, "assg", _DLR),
        Member("apgd", 50, "pdsg", _DLR),
        Member("apgd", 50, "bptt", {}, _TRIANGLE),
        Member("apgd-t", 20, "bptt", {}, _ATAN),
        _square(1000),
    ),
    "full": (
        Member("apgd", 10, "rga"),
        Member("apgd", 20, "bptt", _DLR, _ATAN),
        *(
            Member(attack, 100, rule, loss, params)
            for rule, params in (
                ("hart", {}),
                ("hart", {"gamma": 0.5}),
                ("rga", {}),
                ("bptr", {}),
                ("assg", {}),
                ("pdsg", {}),
                ("cba", {}),
                ("mix", {}),
                ("bptt", _ATAN),
                ("bptt", _ATAN_RESET),
                ("bptt", _TRIANGLE),
                ("bptt", {"surrogate": "Sigmoid", "alpha": 4.0, "detach_reset": True}),
            )
            for attack, loss in (("apgd", {}), ("apgd", _DLR), ("sa-pgd", _DLR))
        ),
        Member("apgd-t", 100, "bptt", {}, _ATAN),
        Member("apgd-t", 100, "assg"),
        Member("fab-t", 100, "bptt", {}, _ATAN),
        _square(5000),
    ),
}
