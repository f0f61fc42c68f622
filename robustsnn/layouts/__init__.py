"""How a network takes time: finding it out, checking what was said, calling it with fresh state."""

from robustsnn.layouts.calling import call_over_time
from robustsnn.layouts.detection import LAYOUTS, check_layout, find_layout, foreign_neurons
from robustsnn.layouts.state import fresh_states, reset_states

__all__ = [
    "LAYOUTS",
    "call_over_time",
    "check_layout",
    "find_layout",
    "foreign_neurons",
    "fresh_states",
    "reset_states",
]
