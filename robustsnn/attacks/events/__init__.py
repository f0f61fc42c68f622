"""Attacks on events: recordings in, recordings out, with a budget of events added, removed or moved."""

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.changes import Changes, changes
from robustsnn.attacks.events.edits import edit_events, event_costs
from robustsnn.attacks.events.frame_pgd import FramePGD
from robustsnn.attacks.events.guided import GuidedAdd, GuidedDrop, GuidedEdit
from robustsnn.attacks.events.gumbel import GumbelAttack
from robustsnn.attacks.events.patch import RandomPatch, UniversalPatch
from robustsnn.attacks.events.patterns import CornerAttack, DashAttack, FrameAttack, MaskDashAttack
from robustsnn.attacks.events.random_edits import RandomAdd, RandomDrop, RandomMove
from robustsnn.attacks.events.retiming import RandomRetiming, SpikeRetiming
from robustsnn.attacks.events.sda import SDA
from robustsnn.attacks.events.sparse import SparseAttack
from robustsnn.attacks.events.spikefool import SpikeFool

__all__ = [
    "SDA",
    "Changes",
    "CornerAttack",
    "DashAttack",
    "EventAttack",
    "FrameAttack",
    "FramePGD",
    "GuidedAdd",
    "GuidedDrop",
    "GuidedEdit",
    "GumbelAttack",
    "MaskDashAttack",
    "RandomAdd",
    "RandomDrop",
    "RandomMove",
    "RandomPatch",
    "RandomRetiming",
    "SparseAttack",
    "SpikeFool",
    "SpikeRetiming",
    "UniversalPatch",
    "changes",
    "edit_events",
    "event_costs",
]
