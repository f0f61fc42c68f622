"""Small segmentation and detection networks, trained here, converted and attacked: mIoU and mAP over T, and pictures.

python benchmarks/dense.py segmentation --images camvid/test --labels camvid/testannot --out out/dense
python benchmarks/dense.py detection --images raccoon/images --annotations raccoon/annotations --out out/dense

Every fourth file is for the test. With a few dozen photographs the networks overfit; the comparison is between the ANN and
its conversions, on the training and on the test images. Training is kept in the folder and not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustsnn.runtime import prepare_process

prepare_process()

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from robustsnn import dense  # noqa: E402
from robustsnn.gradients import BPTR, BPTT  # noqa: E402
from robustsnn.report.style import png  # noqa: E402

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
IGNORED = 11
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "max": ("max", {}),
    "OPI": ("opi", {}),
    "LTB": ("ltb", {}),
}


def train(net: nn.Module, images: Tensor, loss: Callable[[Tensor, list[int]], Tensor], options: Any) -> None:
    """Adam with a one-cycle rate on batches that ``loss`` prepares from image numbers."""
    generator = torch.Generator().manual_seed(options.seed)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=options.steps)
    net.train()
    start = time.perf_counter()
    for step in range(options.steps):
        rows = torch.randperm(len(images), generator=generator)[: options.batch_size].tolist()
        flip = bool(torch.rand((), generator=generator) < 0.5)
        value = loss(images[rows].flip(3) if flip else images[rows], [-1 - row if flip else row for row in rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}: loss {value.item():.3f}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    net.eval()


def trained(net: nn.Module, name: str, options: Any, run: Callable[[], None]) -> nn.Module:
    """The network after ``run``, from the folder if it is there already."""
    file = options.out / f"{name}.safetensors"
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        run()
        save_file(net.state_dict(), file)
    return net.eval().to(options.device)


def table(title: str, steps: list[int], rows: dict[str, list[float]]) -> None:
    """Print scores in percent."""
    print(f"\n| {title} | " + " | ".join(f"T = {each}" for each in steps) + " |")
    print("|" + " --- |" * (len(steps) + 1))
    for name, scores in rows.items():
        print(f"| {name} | " + " | ".join(f"{100 * score:.1f}" for score in scores) + " |")
    sys.stdout.flush()


def segmentation(options: Any) -> None:
    """Train, convert, attack and draw a segmenter."""
    images, labels = dense.load_label_maps(options.images, options.labels, (96, 128))
    images, labels = images.to(options.device), labels.to(options.device)
    test = torch.arange(len(images), device=images.device) % 4 == 3
    weights = torch.bincount(labels[~test].flatten(), minlength=12)[:11].double().rsqrt().float()
    weights = weights / weights.mean()
    torch.manual_seed(options.seed)
    net = dense.SmallFcn(len(CAMVID)).to(options.device)

    def loss(batch: Tensor, rows: list[int]) -> Tensor:
        wanted = labels[~test][[row if row >= 0 else -1 - row for row in rows]]
        wanted = wanted.flip(2) if rows[0] < 0 else wanted
        return F.cross_entropy(net(batch), wanted, weights, ignore_index=IGNORED)

    trained(net, "segmenter", options, lambda: train(net, images[~test], loss, options))
    steps, calibration = options.time_steps, images[~test]
    models = {
        name: dense.convert_dense(
            net, method, max(steps), calibration, batch_size=5, **given | _iterations(method, options)
        )
        for name, (method, given) in METHODS.items()
        if name in options.methods
    }
    for split, chosen in (("test", test), ("training", ~test)):
        if split not in options.splits:
            continue
        ann = dense.segmentation_score(net, images[chosen], labels[chosen], IGNORED)
        print(
            f"\nANN on {ann.images} {split} images: mIoU {100 * ann.mean_iou:.1f} %, pixels {100 * ann.pixel_accuracy:.1f} %"
        )
        rows = {}
        for name, model in models.items():
            found = dense.segmentation_over_time(model, images[chosen], labels[chosen], steps, IGNORED)
            rows[name] = [each.mean_iou for each in found]
        table(f"mIoU, {split}", steps, rows)
        curves = {name: dict(zip(steps, scores)) for name, scores in rows.items()}
        drawn = dense.score_figure(curves, {"ANN": ann.mean_iou}, f"mIoU, {split} images")
        picture(options, f"segmentation-over-time-{split}", drawn)
    chosen, wanted = images[test][: options.attacked], labels[test][: options.attacked]
    model = dense.convert_dense(
        net, "ltb", options.attack_steps, calibration, batch_size=5, **_iterations("ltb", options)
    )
    attacked = f"SNN, T = {options.attack_steps}, attacked"
    views = {"ANN": net, "SNN, BPTR": model.through(BPTR()), "SNN, BPTT": model.through(BPTT())}
    print(f"\nAttacks on {len(chosen)} test images, SNN by LTB with T = {options.attack_steps}")
    print("\n| model, rule | eps | clean | noise | PGD-10 | SegPGD-10 |\n| --- | --- | --- | --- | --- | --- |")
    for name, view in views.items():
        for eps in options.eps:
            makers = [dense.DenseNoise(view, dense.PixelHarm(IGNORED), eps / 255)]
            makers += [
                dense.DensePGD(view, dense.PixelHarm(IGNORED, weighting), eps / 255)
                for weighting in ("plain", "segpgd")
            ]
            found = [chosen, *(make(chosen, wanted) for make in makers)]
            scores = [dense.segmentation_score(view, each, wanted, IGNORED, 1).mean_iou for each in found]
            print(f"| {name} | {eps}/255 | " + " | ".join(f"{100 * score:.1f}" for score in scores) + " |", flush=True)
            if name == "SNN, BPTR":
                adversarial = found[-1]
    with torch.no_grad():
        maps = {
            "truth": wanted,
            "ANN": net(chosen).argmax(1),
            **{
                f"SNN, T = {at}": outputs.argmax(1)
                for at, outputs in zip(
                    steps[::2], dense.outputs_at(next(reversed(models.values())), chosen, steps[::2])
                )
            },
            attacked: model(adversarial).argmax(1),
        }
    picture(options, "segmentation", dense.segmentation_figure(chosen[:3], _some(maps, 3), CAMVID, IGNORED))


def detection(options: Any) -> None:
    """Train, convert, attack and draw a detector."""
    images, truth = dense.load_voc_boxes(options.images, options.annotations, (128, 128), ["raccoon"])
    images = images.to(options.device)
    test = [number % 4 == 3 for number in range(len(images))]
    seen, unseen = ([n for n, is_test in enumerate(test) if is_test == wanted] for wanted in (False, True))
    fcos = dense.Fcos(num_classes=1, stride=8)
    torch.manual_seed(options.seed)
    net = dense.SmallFcos(1).to(options.device)

    def loss(batch: Tensor, rows: list[int]) -> Tensor:
        wanted = [_flipped(truth[seen[-1 - row]], 128) if row < 0 else truth[seen[row]] for row in rows]
        return fcos.loss(net(batch), wanted).mean()

    trained(net, "detector", options, lambda: train(net, images[seen], loss, options))
    steps = options.time_steps
    models = {
        name: dense.convert_dense(
            net, method, max(steps), images[seen], batch_size=10, **given | _iterations(method, options)
        )
        for name, (method, given) in METHODS.items()
        if name in options.methods
    }
    for split, rows_of in (("test", unseen), ("training", seen)):
        if split not in options.splits:
            continue
        wanted = [truth[number] for number in rows_of]
        ann = dense.detection_score(net, images[rows_of], wanted, fcos.decode)
        print(f"\nANN on {ann.images} {split} images: mAP {100 * ann.mean:.1f} %, AP50 {100 * ann.at_half:.1f} %")
        found = {
            name: dense.detection_over_time(model, images[rows_of], wanted, fcos.decode, steps, batch_size=2)
            for name, model in models.items()
        }
        table(f"mAP, {split}", steps, {name: [at.mean for at in each] for name, each in found.items()})
        table(f"AP50, {split}", steps, {name: [at.at_half for at in each] for name, each in found.items()})
        curves = {name: {t: at.mean for t, at in zip(steps, each)} for name, each in found.items()}
        picture(
            options,
            f"detection-over-time-{split}",
            dense.score_figure(curves, {"ANN": ann.mean}, f"mAP, {split} images"),
        )
    rows_of = seen[: options.attacked]
    chosen, wanted = images[rows_of], [truth[number] for number in rows_of]
    model = dense.convert_dense(
        net, "ltb", options.attack_steps, images[seen], batch_size=10, **_iterations("ltb", options)
    )
    attacked = f"SNN, T = {options.attack_steps}, attacked"
    views = {"ANN": net, "SNN, BPTR": model.through(BPTR()), "SNN, BPTT": model.through(BPTT())}
    print(f"\nAttacks on {len(chosen)} training images, SNN by LTB with T = {options.attack_steps}, mAP")
    print("\n| model, rule | eps | clean | noise | PGD-10 |\n| --- | --- | --- | --- | --- |")
    for name, view in views.items():
        for eps in options.eps:
            makers = [attack(view, dense.BoxHarm(fcos), eps / 255) for attack in (dense.DenseNoise, dense.DensePGD)]
            found = [chosen, *(make(chosen, wanted) for make in makers)]
            scores = [dense.detection_score(view, each, wanted, fcos.decode).mean for each in found]
            print(f"| {name} | {eps}/255 | " + " | ".join(f"{100 * score:.1f}" for score in scores) + " |", flush=True)
            if name == "SNN, BPTR":
                adversarial = found[-1]
    with torch.no_grad():
        shown = {
            "ANN": fcos.decode(net(chosen)),
            **{
                f"SNN, T = {at}": fcos.decode(outputs)
                for at, outputs in zip(
                    steps[::2], dense.outputs_at(next(reversed(models.values())), chosen, steps[::2])
                )
            },
            attacked: fcos.decode(model(adversarial)),
        }
    figure = dense.detection_figure(
        chosen[:3],
        {name: boxes[:3] for name, boxes in shown.items()},
        ["raccoon"],
        wanted[:3],
        shown_on={attacked: adversarial},
    )
    picture(options, "detection", figure)


def picture(options: Any, name: str, figure: Any) -> None:
    """Write a PNG."""
    (options.out / f"{name}.png").write_bytes(png(figure))


def _iterations(method: str, options: Any) -> dict[str, int]:
    return {"iterations": options.iterations} if method == "ltb" else {}


def _some(maps: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: each[:count] for name, each in maps.items()}


def _flipped(boxes: dense.Boxes, width: float) -> dense.Boxes:
    x1, y1, x2, y2 = boxes.corners.unbind(1)
    return dense.Boxes(torch.stack([width - x2, y1, width - x1, y2], 1), boxes.classes)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["segmentation", "detection"])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="label maps (segmentation)")
    parser.add_argument("--annotations", type=Path, help="Pascal VOC files (detection)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=200, help="of LTB")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="the last is drawn")
    parser.add_argument("--splits", nargs="+", choices=["test", "training"], default=["test", "training"])
    parser.add_argument("--attack-steps", type=int, default=32, help="T of the network that is attacked")
    parser.add_argument("--eps", type=int, nargs="+", default=[1, 2, 4], help="of attacks, in 255ths, rising")
    parser.add_argument("--attacked", type=int, default=4, help="images that are attacked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    {"segmentation": segmentation, "detection": detection}[options.task](options)


if __name__ == "__main__":
    main()
