"""`detrkit demo`: generate a data set, train on it, evaluate and draw predictions.

The demo is `detrkit train` with the recipe `fast` and its smallest model, from the weights in the package. Settings
that differ from the recipe fit a very short run: a higher learning rate, a moving average over fewer steps, and no
augmentation but flips, since the model sees each image only a few times. The limit of time plans the schedule, so that
a busy machine ends with a trained model, too.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import torch

from detrkit.config.commands import DemoConfig
from detrkit.config.train import TrainConfig
from detrkit.data.formats.coco_panoptic import read_panoptic_gt
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import ImageRecord, Split
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.data.validation.validate import check_dataset
from detrkit.inference import Detector
from detrkit.ops.console import make_console
from detrkit.ops.masks import decode_segmentation
from detrkit.results import Detections, PanopticMap, ground_truth_detections
from detrkit.training import run_training
from detrkit.visualization.draw import ImageArray, Tile, grid, save_image, sheet
from detrkit.visualization.segments import draw_panoptic

SHEET_IMAGES = 12
SIDE = 256
"""Pixels of each drawn map."""


def demo(config: DemoConfig) -> None:
    """Run the demo and print the metrics and the files written.

    Raises:
        DetrkitError: an error that the user can fix.
    """
    console = make_console()
    folder = Path(config.output_dir)
    make_console(quiet=config.quiet).print(
        f"Generating {config.images} training images of surface defects, and a fifth as many for evaluation"
    )
    panoptic = config.task == "panoptic"
    data = make_demo_dataset(
        folder / "data",
        images=config.images,
        size=config.size,
        difficulty=config.difficulty,
        seed=config.seed,
        panoptic=panoptic,
    )
    result = run_training(demo_settings(config, data), overwrite=True)
    if result.interrupted:
        raise KeyboardInterrupt
    split = check_dataset(open_dataset(data, data_format="coco_panoptic" if panoptic else "auto")).splits["val"]
    detector = Detector.load(result.run_dir / "best.ckpt", device="cpu")
    heldout = folder / "report" / "heldout.jpg"
    if panoptic:
        save_image(heldout, panoptic_sheet(detector, split))
    else:
        save_image(heldout, heldout_sheet(detector, split, threshold=config.threshold))

    names = {
        "detect": ("AP", "AP50", "AP75", "AR100"),
        "instance": ("mask_AP", "mask_AP50", "AP", "AP50"),
        "panoptic": ("PQ", "SQ", "RQ", "mask_AP", "mask_AP50", "AP", "AP50"),
    }[config.task]
    metrics = ", ".join(f"{name.replace('_', ' ')} {result.metrics[name]:.3f}" for name in names)
    console.print(f"\nOn {len(split.images)} held-out images: {metrics}")
    rows = [
        (heldout, "held-out images: ground truth on the left, predictions on the right"),
        (folder / "report", "training curves, precision-recall curves, confusion matrix, worst errors"),
        (folder / "best.ckpt", "the detector"),
        (folder / "metrics.csv", "one row per epoch; config.yaml holds the settings"),
    ]
    for path, text in rows:
        console.print(f"  {path!s:<28} {text}")
    first_image = shlex.quote(str(split.images[0].path))
    formats = {
        "detect": "COCO, Pascal VOC, YOLO, labelme, VIA, CVAT, Label Studio, PNG masks",
        "instance": "COCO, YOLO or PNGs of masks",
        "panoptic": "COCO panoptic",
    }
    console.print(
        "\nNext:\n"
        f"  detrkit predict --weights {shlex.quote(str(folder))} {first_image}{' --panoptic' if panoptic else ''}\n"
        f"  detrkit check YOUR_DATA                 {formats[config.task]}\n"
        f"  detrkit train YOUR_DATA{'' if config.task == 'detect' else f' --task {config.task}'}\n"
        f"  detrkit studio {shlex.quote(str(folder))}                 all of it in a browser"
    )


def demo_settings(config: DemoConfig, data: Path) -> TrainConfig:
    """The settings of the demo's training run; `detrkit train` with the same settings gives the same run."""
    boxes = config.task == "detect"
    epochs = 4 if boxes else 6
    return TrainConfig.from_recipe(
        "fast",
        model="detrkit_n",
        data=str(data),
        output_dir=config.output_dir,
        seed=config.seed,
        quiet=config.quiet,
        task=config.task,
        max_minutes=config.max_minutes,
        epochs=epochs,
        eval_every=epochs,
        device="cpu",
        image_size=96 if boxes else 128,  # small images and batches leave time for more steps
        num_queries=20,
        batch_size=8 if boxes else 16,
        num_workers=0,
        lr=2e-3,
        lr_base_size=0,  # the rate is for these batches
        lr_schedule="cosine",
        warmup_steps=40,
        ema=0.99,
        mosaic=0.0,
        mixup=0.0,
        zoom_out=0.0,
        iou_crop=0.0,
        color_jitter=0.0,
        vertical_flip=0.5,
        no_aug_epochs=0,
    )


def heldout_sheet(detector: Detector, split: Split, *, threshold: float) -> ImageArray:
    """Held-out images with ground truth and predictions side by side, as uint8 RGB [H, W, 3].

    The images are the first of the split, not a selection.
    """
    tiles = []
    for image in split.images[:SHEET_IMAGES]:
        detections = detector.predict(image.path, threshold=threshold)
        gt = gt_of(image, split, masks=detections.masks is not None)
        tiles.append(Tile(image.path, detections, gt, caption=image.file_name))
    return sheet(tiles, columns=3)


def panoptic_sheet(detector: Detector, split: Split) -> ImageArray:
    """Panoptic maps of held-out images, ground truth on the left and predictions on the right, as uint8 [H, W, 3]."""
    names = dict(zip(split.categories.ids, split.categories.names, strict=True))
    cells = []
    for image in split.images[:SHEET_IMAGES]:
        ids, segments = read_panoptic_gt(image)
        areas = torch.bincount(ids.flatten())
        gt = [{**row, "category_name": names[row["category_id"]], "area": int(areas[row["id"]])} for row in segments]
        drawn = [
            draw_panoptic(image.path, panoptic, side=SIDE)
            for panoptic in (PanopticMap(ids, gt), detector.panoptic(image.path))
        ]
        cells.append(grid(drawn, columns=2))
    return grid(cells, columns=3)


def gt_of(image: ImageRecord, split: Split, *, masks: bool = False) -> Detections:
    """The ground-truth objects of an image as detections, without crowd regions."""
    objects = [o for o in image.objects if not o.crowd]
    gt = ground_truth_detections((o.box for o in objects), (o.category_id for o in objects), split.categories)
    if not masks:
        return gt
    decoded = [decode_segmentation(o.segmentation, image.height, image.width) for o in objects]
    return replace(gt, masks=torch.stack(decoded) if decoded else torch.zeros(0, image.height, image.width).bool())
