"""The published DETR checkpoints: URLs, settings, classes and accuracy on COCO.

Source: Carion et al., "End-to-End Object Detection with Transformers" (2020), and its model zoo. The eight hex digits
in each file name begin the SHA-256 of the file, which is checked after a download.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detrkit.errors import WeightsError
from detrkit.structures import Categories

_COCO_NAMES = (
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant||stop sign|parking meter|"
    "bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe||backpack|umbrella|||handbag|tie|suitcase|frisbee|"
    "skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle||"
    "wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|"
    "couch|potted plant|bed||dining table|||toilet||tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|"
    "sink|refrigerator||book|clock|vase|scissors|teddy bear|hair drier|toothbrush"
)

COCO_CATEGORIES = Categories(
    tuple(range(91)),
    tuple(name or f"N/A {index}" for index, name in enumerate(["", *_COCO_NAMES.split("|")])),
)
"""The 91 classes of a model trained on COCO. The index of a class is its COCO id; eleven are unused."""


_COCO_STUFF = (
    "92 banner|93 blanket|95 bridge|100 cardboard|107 counter|109 curtain|112 door-stuff|118 floor-wood|119 flower|"
    "122 fruit|125 gravel|128 house|130 light|133 mirror-stuff|138 net|141 pillow|144 platform|145 playingfield|"
    "147 railroad|148 river|149 road|151 roof|154 sand|155 sea|156 shelf|159 snow|161 stairs|166 tent|168 towel|"
    "171 wall-brick|175 wall-stone|176 wall-tile|177 wall-wood|178 water-other|180 window-blind|181 window-other|"
    "184 tree-merged|185 fence-merged|186 ceiling-merged|187 sky-other-merged|188 cabinet-merged|189 table-merged|"
    "190 floor-other-merged|191 pavement-merged|192 mountain-merged|193 grass-merged|194 dirt-merged|195 paper-merged|"
    "196 food-other-merged|197 building-other-merged|198 rock-merged|199 wall-other-merged|200 rug-merged"
)
_STUFF_NAMES = {int(number): name for number, name in (row.split(" ", 1) for row in _COCO_STUFF.split("|"))}

COCO_PANOPTIC_CATEGORIES = Categories(
    tuple(range(250)),
    COCO_CATEGORIES.names + tuple(_STUFF_NAMES.get(index, f"N/A {index}") for index in range(91, 250)),
    tuple(index <= 90 for index in range(250)),
)
"""The 250 classes of a model trained on COCO panoptic. The index of a class is its COCO id; 80 are things,
53 are stuff, the others are unused."""


@dataclass(frozen=True)
class Published:
    """A published checkpoint."""

    name: str
    """Name in detrkit and torch.hub."""
    url: str
    """URL of the file."""
    model_args: dict[str, Any]
    """Keywords of `build_model` that differ from its defaults."""
    box_ap: float
    """Box AP on COCO val2017, in percent, at a shorter side of 800 pixels."""
    categories: Categories = COCO_CATEGORIES
    """The classes of the model."""
    image_size: int = 800
    """Shorter side at evaluation, in pixels."""
    license: str = "Apache-2.0"
    """License of the weights."""
    mask_ap: float | None = None
    """Mask AP on COCO val2017, in percent; None for a model without masks."""
    pq: float | None = None
    """Panoptic quality on COCO val2017, in percent; None for a model without masks."""

    @property
    def file_name(self) -> str:
        """Name of the file in torch.hub's cache."""
        return self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str:
        """First eight hex digits of the SHA-256 of the file."""
        return self.file_name.removesuffix(".pth").rpartition("-")[2]

    @property
    def path(self) -> Path:
        """Path of the file in torch.hub's cache ($TORCH_HOME/hub/checkpoints), whether or not it exists."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file_name


_HOST = "https://dl.fbaipublicfiles.com/detr"


def _panoptic(name: str, file: str, box_ap: float, mask_ap: float, pq: float) -> Published:
    """The entry of a model for COCO panoptic."""
    model_args = {"backbone": name.split("_")[1], "dilation": "dc5" in name, "masks": True}
    return Published(name, f"{_HOST}/{file}", model_args, box_ap, COCO_PANOPTIC_CATEGORIES, mask_ap=mask_ap, pq=pq)


PUBLISHED = {
    entry.name: entry
    for entry in (
        Published("detr_resnet50", f"{_HOST}/detr-r50-e632da11.pth", {"backbone": "resnet50", "dilation": False}, 42.0),
        Published(
            "detr_resnet50_dc5", f"{_HOST}/detr-r50-dc5-f0fb7ef5.pth", {"backbone": "resnet50", "dilation": True}, 43.3
        ),
        Published(
            "detr_resnet101", f"{_HOST}/detr-r101-2c7b67e5.pth", {"backbone": "resnet101", "dilation": False}, 43.5
        ),
        Published(
            "detr_resnet101_dc5",
            f"{_HOST}/detr-r101-dc5-a2e86def.pth",
            {"backbone": "resnet101", "dilation": True},
            44.9,
        ),
        _panoptic("detr_resnet50_panoptic", "detr-r50-panoptic-00ce5173.pth", 38.8, 31.1, 43.4),
        _panoptic("detr_resnet50_dc5_panoptic", "detr-r50-dc5-panoptic-da08f1b1.pth", 40.2, 31.9, 44.6),
        _panoptic("detr_resnet101_panoptic", "detr-r101-panoptic-40021d53.pth", 40.1, 33.0, 45.1),
    )
}
"""Name -> published checkpoint."""


def fetch(entry: Published) -> Path:
    """Download a published checkpoint into torch.hub's cache, check its hash, and return its path.

    A file in the cache is used without access to the network.

    Raises:
        WeightsError: the download failed; the message has the URL, and the path at which to put the file by hand.
    """
    path = entry.path
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(entry.url, os.fspath(path), hash_prefix=entry.sha256_prefix)
    except (OSError, RuntimeError) as problem:  # no network, no such host, no disk space, or a wrong hash
        raise WeightsError(
            f"could not fetch the published weights {entry.name} ({problem}); "
            f"download {entry.url} on a machine with network and put the file at {path}"
        ) from problem
    return path


def recognize(path: Path) -> Published | None:
    """The published checkpoint with the hash of a file, or None."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((entry for entry in PUBLISHED.values() if digest.startswith(entry.sha256_prefix)), None)
