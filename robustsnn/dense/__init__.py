"""Dense prediction: segmentation and detection networks converted, scored over T, attacked and drawn."""

from robustsnn.dense.attack import DenseAttack, DenseNoise, DensePGD
from robustsnn.dense.average_precision import Detected, average_precision, detection_over_time, detection_score
from robustsnn.dense.boxes import Boxes, overlaps, suppress
from robustsnn.dense.converting import check_dense, convert_dense
from robustsnn.dense.fcos import Fcos
from robustsnn.dense.files import load_label_maps, load_voc_boxes
from robustsnn.dense.harm import BoxHarm, Harm, PixelHarm
from robustsnn.dense.hybrid import AnalogueHead
from robustsnn.dense.networks import SmallFcn, SmallFcos
from robustsnn.dense.over_time import outputs_at
from robustsnn.dense.pictures import detection_figure, score_figure, segmentation_figure
from robustsnn.dense.segmentation import Segmented, score_segmentation, segmentation_over_time, segmentation_score
from robustsnn.dense.torchvision_models import FcosFeatures, FcosHead, FcosMaps, RetinaNetMaps, torchvision_boxes
from robustsnn.dense.wrapping import OutputOf, pack, per_step, thawed, unpack

__all__ = [
    "AnalogueHead",
    "BoxHarm",
    "Boxes",
    "DenseAttack",
    "DenseNoise",
    "DensePGD",
    "Detected",
    "Fcos",
    "FcosFeatures",
    "FcosHead",
    "FcosMaps",
    "Harm",
    "OutputOf",
    "PixelHarm",
    "RetinaNetMaps",
    "Segmented",
    "SmallFcn",
    "SmallFcos",
    "average_precision",
    "check_dense",
    "convert_dense",
    "detection_figure",
    "detection_over_time",
    "detection_score",
    "load_label_maps",
    "load_voc_boxes",
    "outputs_at",
    "overlaps",
    "pack",
    "per_step",
    "score_figure",
    "score_segmentation",
    "segmentation_figure",
    "segmentation_over_time",
    "segmentation_score",
    "suppress",
    "thawed",
    "torchvision_boxes",
    "unpack",
]
