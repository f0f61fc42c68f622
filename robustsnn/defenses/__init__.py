"""Training: objectives that make a network robust, and the trainer that minimises them."""

from robustsnn.defenses.adversarial_training import AT
from robustsnn.defenses.cross_entropy import CrossEntropy
from robustsnn.defenses.fresh import build_model
from robustsnn.defenses.objective import Batch, Loss, Objective
from robustsnn.defenses.progress import Progress
from robustsnn.defenses.registry import OBJECTIVES, build_objective
from robustsnn.defenses.sparse_gradient import SR
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.defenses.trainer import TrainResult, train
from robustsnn.defenses.training_log import EpochRecord

__all__ = [
    "AT",
    "OBJECTIVES",
    "SR",
    "Batch",
    "CrossEntropy",
    "EpochRecord",
    "Loss",
    "Objective",
    "Progress",
    "TrainConfig",
    "TrainResult",
    "build_model",
    "build_objective",
    "train",
]
