"""SpikingAutoAttack: a cascade of rules, attacks and losses without parameters to tune."""

from robustsnn.attacks.ensemble.cascade import MemberLog, SpikingAutoAttack
from robustsnn.attacks.ensemble.member import Member
from robustsnn.attacks.ensemble.presets import PRESETS

__all__ = ["PRESETS", "Member", "MemberLog", "SpikingAutoAttack"]
