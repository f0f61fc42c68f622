"""QCFS: an ANN trained with quantised activations becomes a spiking network, each trained bound a threshold."""

from __future__ import annotations

from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import bare_network, spiking
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.neurons.activations import QCFS
from robustsnn.pixels import Normalize


def convert_qcfs(
    ann: nn.Module, time_steps: int, v_init: float = 0.5, normalize: Normalize | None = None
) -> SpikingClassifier:
    """The same layers with every `QCFS` call replaced by a soft-reset IF neuron with ``threshold = bound``.

    Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks", ICLR 2022.
    A current constant in time gives the activation with Q = T (ties may round apart unless T is a power of two); what
    remains is the unevenness of spike times. So for large T the limit is clip(z, 0, bound), whatever the levels of the
    ANN. Batch norm stays unfolded (a per-step affine map). The ANN is not modified.

    Args:
        ann: an `AnnClassifier` whose activations are all `QCFS`, or its bare network.
        time_steps: T >= 1, independent of the levels that the ANN was trained with.
        v_init: initial potential in thresholds; at 1/2 the expected error vanishes for any T, 0 is the classic choice.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to the mean over T of the logits ``[N, K]``; direct coding, in evaluation
        mode, on the device of the ANN.

    Raises:
        RobustSNNError: a bound that is not positive, another activation, a layer that does not commute with averaging
            over time (max-pooling, softmax, layer norm, ...), a forward that torch.fx cannot trace, bad arguments.
    """
    bare, normalize = bare_network(ann, normalize)
    net, names = separate_call_sites(bare, (QCFS,))
    bounds = {name: net.get_submodule(name).get_parameter("bound").detach() for name in names}
    return spiking(net, bounds, time_steps, v_init, normalize)
