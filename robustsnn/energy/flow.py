"""What travels between layers: the image, analogue currents, spikes or graded events."""

from __future__ import annotations

from collections.abc import Set

IMAGE, CURRENT, SPIKES, GRADED = "image", "current", "spikes", "graded"
"""The kinds of values that a layer may get.

``image``: analogue and the same in every step; also what layers without neurons make of the image. ``current``: any other
analogue value, or a sum with one. ``spikes``: zeros and equal heights. ``graded``: sums, averages and the like of spikes.
"""

WEIGHTED = {
    "linear": "linear",
    "matmul": "linear",
    "mm": "linear",
    **{f"conv{dims}d": f"conv{dims}d" for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": f"conv_transpose{dims}d" for dims in (1, 2, 3)},
}
"""Functions whose operations are counted."""

REFUSED = {
    *(
        "einsum",
        "bmm",
        "baddbmm",
        "addmm",
        "addmv",
        "mv",
        "addbmm",
        "tensordot",
        "bilinear",
        "chain_matmul",
        "conv_tbc",
    ),
    *("inner", "outer", "dot", "kron", "convolution", "_convolution", "embedding_bag", "multi_dot"),
    *("scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"),
    *("_transformer_encoder_layer_fwd", "lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
}
"""Functions with products that are not counted, so that a network with them cannot be measured."""

_SAME = {
    *(
        "view",
        "view_as",
        "reshape",
        "reshape_as",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
    ),
    *(
        "movedim",
        "t",
        "getitem",
        "get",
        "expand",
        "expand_as",
        "repeat",
        "chunk",
        "split",
        "unbind",
        "narrow",
        "select",
    ),
    *(
        "index_select",
        "flip",
        "roll",
        "contiguous",
        "clone",
        "detach",
        "to",
        "type",
        "type_as",
        "float",
        "double",
        "half",
    ),
    *("cpu", "cuda", "pad", "cat", "concat", "stack", "unfold", "pixel_shuffle", "pixel_unshuffle"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("mul", "rmul", "imul", "div", "truediv", "itruediv", "neg", "abs", "relu", "requires_grad"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
}
"""Functions of spikes that give spikes, by their names without underscores at the ends."""


def kind_after(name: str, kinds: Set[str], from_one: bool = False) -> str:
    """What a function of values of these kinds gives.

    Args:
        name: of the function.
        kinds: of its arguments, at least one.
        from_one: whether it subtracts its argument from 1, which turns spikes into the spikes of the silent.
    """
    if name not in WEIGHTED and len(kinds) == 1 and (from_one or name.strip("_") in _SAME):
        return next(iter(kinds))
    if kinds == {IMAGE}:
        return IMAGE
    return CURRENT if name in WEIGHTED or kinds & {IMAGE, CURRENT} else GRADED
