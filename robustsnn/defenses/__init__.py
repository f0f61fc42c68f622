"""Training: objectives that make a network robust, and the trainer that minimises them."""

from robustsnn.defenses.adversarial_training import AT
from robustsnn.defenses.cross_entropy import CrossEntropy
from robustsnn.defenses.dlif import DLIF
from robustsnn.defenses.filtered import BackgroundActivity, FilteredFrames, HotPixels, with_filters, without_filters
from robustsnn.defenses.fresh import build_model
from robustsnn.defenses.hire import HIRE
from robustsnn.defenses.input_gradient import InputGradient
from robustsnn.defenses.mart import MART
from robustsnn.defenses.mpd_sgr import MPDSGR
from robustsnn.defenses.objective import Batch, Loss, Objective
from robustsnn.defenses.progress import Progress
from robustsnn.defenses.rat import RAT
from robustsnn.defenses.recording import NeuronRecord
from robustsnn.defenses.registry import OBJECTIVES, build_objective, parse_objective
from robustsnn.defenses.sparse_gradient import SR
from robustsnn.defenses.stog import StoG
from robustsnn.defenses.tet import TET
from robustsnn.defenses.tgo import TGO
from robustsnn.defenses.trades import TRADES
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.defenses.trainer import TrainResult, train
from robustsnn.defenses.training_log import EpochRecord

__all__ = [
    "AT",
    "DLIF",
    "HIRE",
    "MART",
    "MPDSGR",
    "OBJECTIVES",
    "RAT",
    "SR",
    "TET",
    "TGO",
    "TRADES",
    "BackgroundActivity",
    "Batch",
    "CrossEntropy",
    "EpochRecord",
    "FilteredFrames",
    "HotPixels",
    "InputGradient",
    "Loss",
    "NeuronRecord",
    "Objective",
    "Progress",
    "StoG",
    "TrainConfig",
    "TrainResult",
    "build_model",
    "build_objective",
    "parse_objective",
    "train",
    "with_filters",
    "without_filters",
]
