"""Whether gradient rules know a model's neurons."""

from __future__ import annotations

from spikingjelly.activation_based import neuron

from robustsnn.classifier import GradientView, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import Execution, executing, own_step

_LAYOUTS = ("folded", "multi", "single")


def takes_rules(model: object) -> bool:
    """Whether ``model`` can be differentiated through every gradient rule, found out without running it.

    A `SpikingClassifier` (or a view of one) around IF, LIF and PLIF neurons of robustsnn or SpikingJelly can; networks of
    other frameworks, and SpikingJelly's with other neurons, have their own gradient only (rule ``"own"``).
    """
    if isinstance(model, GradientView):
        model = model.model
    if not isinstance(model, SpikingClassifier) or model.layout not in _LAYOUTS:
        return False
    if not any(isinstance(module, neuron.BaseNode) for module in model.net.modules()):
        return False
    try:
        with executing(model.net, Execution(1, own_step, folded=model.layout != "multi")):
            return True
    except RobustSNNError:
        return False
