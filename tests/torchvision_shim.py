"""torchvision's Python models where its compiled operators do not fit torch: their schemas are declared, nms is ours."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch

from robustsnn.dense.boxes import suppress

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    **dict.fromkeys(
        ("roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward"), "(Tensor x) -> Tensor"
    ),
    **dict.fromkeys(("roi_pool", "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward"), "(Tensor x) -> Tensor"),
    **dict.fromkeys(("qnms", "qroi_align", "deform_conv2d", "_deform_conv2d_backward"), "(Tensor x) -> Tensor"),
}
_kept: list[torch.library.Library] = []


def torchvision_or_skip() -> ModuleType:
    """torchvision, with its operators or without; skips the test where it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if not _kept and not _imports():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            library.define(name + schema)
        library.impl("nms", suppress, "CPU")
        _kept.append(library)
    import torchvision
    import torchvision.ops.boxes

    if _kept:
        torchvision.ops.boxes._assert_has_ops = lambda: None
    return torchvision


def _imports() -> bool:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True
