"""torchvision's segmenters and detectors, random weights and shallow backbones, trace and convert."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision_shim import torchvision_or_skip

from robustsnn import dense
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.errors import RobustSNNError

SIZE = (64, 48)


@pytest.fixture(scope="module")
def tv() -> Any:
    return torchvision_or_skip()


def images(side: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(1, 3, *side, generator=torch.Generator().manual_seed(0))


def lively(net: nn.Module) -> nn.Module:
    """Random norms, so that none is the identity, with few calibration images that leave nothing silent."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return net.eval()


def backbone(tv: Any, **options: Any) -> nn.Module:
    """A ResNet-50 with one bottleneck a stage instead of 3, 4, 6, 3."""
    return lively(tv.models.resnet.ResNet(tv.models.resnet.Bottleneck, [1, 1, 1, 1], **options))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def errors_over_time(model: Any, net: nn.Module, key: str | None = None) -> list[float]:
    with torch.no_grad():
        wanted = net(images())
    wanted = wanted if key is None else wanted[key]
    return [relative(outputs, wanted) for outputs in dense.outputs_at(model, images(), [2, 32])]


class TestSegmentation:
    @pytest.mark.parametrize("head", ["fcn", "deeplabv3"])
    def test_converts_and_tends_to_the_ann(self, tv: Any, head: str) -> None:
        parts = tv.models.segmentation
        trunk = tv.models._utils.IntermediateLayerGetter(
            backbone(tv, replace_stride_with_dilation=[False, True, True]), {"layer4": "out"}
        )
        if head == "fcn":
            net = parts.FCN(trunk, parts.fcn.FCNHead(2048, 4))
        else:
            net = parts.DeepLabV3(trunk, parts.deeplabv3.DeepLabHead(2048, 4, (2, 4, 6)))
        model = dense.convert_dense(lively(net), "ltb", 4, images(), output="out", iterations=12)
        assert model(images()).shape == (1, 4, *SIZE)
        early, late = errors_over_time(model, net, "out")
        assert late < early

    def test_fcn_resnet50_has_a_neuron_at_every_call(self, tv: Any) -> None:
        """One ReLU module is called three times in each of 16 bottlenecks, and once in the stem and in the head."""
        net = tv.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=False)
        _, names = separate_call_sites(dense.OutputOf(net, "out"), (nn.ReLU,), pools_first=True)
        assert len(names) == len(set(names)) == 3 * 16 + 2


class TestDetection:
    @pytest.fixture(scope="class")
    def retinanet(self, tv: Any) -> Any:
        utils, ops = tv.models.detection.backbone_utils, tv.ops
        frozen = backbone(tv, norm_layer=ops.misc.FrozenBatchNorm2d)
        trunk = utils._resnet_fpn_extractor(
            frozen, 5, returned_layers=[2, 3, 4], extra_blocks=ops.feature_pyramid_network.LastLevelP6P7(2048, 256)
        )
        anchors = tv.models.detection.anchor_utils.AnchorGenerator(
            tuple((s, int(1.6 * s)) for s in (8, 16, 32, 64, 128)), ((0.5, 1.0),) * 5
        )
        model = tv.models.detection.RetinaNet(
            trunk, 2, anchor_generator=anchors, min_size=48, max_size=64, score_thresh=0.0, detections_per_img=20
        )
        return model.eval()

    @pytest.fixture(scope="class")
    def fcos(self, tv: Any) -> Any:
        utils, ops = tv.models.detection.backbone_utils, tv.ops
        trunk = utils._resnet_fpn_extractor(
            backbone(tv), 5, returned_layers=[2, 3, 4], extra_blocks=ops.feature_pyramid_network.LastLevelP6P7(256, 256)
        )
        model = tv.models.detection.FCOS(trunk, 2, min_size=48, max_size=64, score_thresh=0.0, detections_per_img=20)
        return model.eval()

    def test_raw_maps_and_torchvisions_decoding_give_torchvisions_boxes(self, retinanet: Any, fcos: Any) -> None:
        """Against the whole model of torchvision, whose transform is the normalisation alone at this size."""
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        x = images()
        normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for model, maps in ((retinanet, dense.RetinaNetMaps(retinanet)), (fcos, dense.FcosMaps(fcos))):
            model.transform.size_divisible = 1
            with torch.no_grad():
                (wanted,) = model(list(x))
                (found,) = dense.torchvision_boxes(model, maps.eval()(normal), SIZE)
            assert len(wanted["boxes"]) == 20
            assert torch.equal(found["labels"], wanted["labels"])
            torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(found["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)

    def test_retinanet_converts(self, retinanet: Any) -> None:
        """Frozen norms, a pyramid with a functional ReLU, and a head whose ReLUs are called on five levels."""
        maps = dense.RetinaNetMaps(retinanet).eval()
        model = dense.convert_dense(maps, "ltb", 2, images(), iterations=8)
        neurons = [name for name, module in model.named_modules() if type(module).__name__ == "ScaledIF"]
        assert len(neurons) == 1 + 3 * 4 + 1 + 5 * 2 * 4
        early, late = errors_over_time(model, maps)
        assert late < early

    def test_fcos_is_refused_and_its_trunk_converts(self, fcos: Any) -> None:
        with pytest.raises(RobustSNNError, match=r"layer 'head.sides.conv.1' \(GroupNorm\).*every frame"):
            dense.convert_dense(dense.FcosMaps(fcos), "ltb", 2, images(), iterations=1)
        trunk = dense.convert_dense(dense.FcosFeatures(fcos), "ltb", 2, images(), iterations=8)
        model = dense.AnalogueHead(trunk, dense.FcosHead(fcos), (8, 16, 32, 64, 128)).eval()
        early, late = errors_over_time(model, dense.FcosMaps(fcos).eval())
        assert late < early

    def test_fcos_converts_with_norms_per_step(self, fcos: Any) -> None:
        maps = dense.FcosMaps(fcos).eval()
        model = dense.convert_dense(maps, "ltb", 1, images(), iterations=2, frame_norms=(nn.GroupNorm,))
        assert model(images()).shape == maps(images()).shape

    def test_bad_input(self, retinanet: Any, fcos: Any) -> None:
        with pytest.raises(RobustSNNError, match="expected torchvision's FCOS, got RetinaNet"):
            dense.FcosHead(retinanet)
        with pytest.raises(RobustSNNError, match="expected torchvision's RetinaNet, got Linear"):
            dense.RetinaNetMaps(nn.Linear(2, 2))
        with pytest.raises(RobustSNNError, match="do not belong to this model"):
            dense.torchvision_boxes(fcos, torch.rand(1, 10, 7), SIZE)
        assert fcos.training is False
