"""The models that have a name: architectures of `--model`, and trained weights of `--weights`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detrkit.config.presets import MODELS
from detrkit.models.checkpoints.hub import cached
from detrkit.models.checkpoints.hub_models import HUB_MODELS
from detrkit.models.checkpoints.published import PUBLISHED
from detrkit.models.checkpoints.weights_file import PACKAGED


@dataclass(frozen=True)
class NamedModel:
    """A model that settings can name."""

    name: str
    """The value of `model` in `TrainConfig` and `--model`, of `weights` and `Detector.load`, or of both."""
    description: str
    """One line."""
    published: bool
    """Whether the weights of the reference DETR are published under this name."""
    architecture: bool
    """Whether `--model` builds it, with random weights."""
    parameters: float
    """Millions of parameters, those of training-only branches included."""
    gflops: float
    """Billions of operations per image of 640 x 640 pixels, two per multiply-add; RF-DETR at its own image size."""
    coco_ap: float | None = None
    """Box AP of the weights on COCO val2017, 0..1, as their authors publish it; None without weights."""
    ap_source: str = ""
    """Where `coco_ap` is published: a URL without https://."""
    license: str = ""
    """License of the weights; empty without weights."""
    origin: str = ""
    """Where the weights come from: an id on the Hugging Face hub, a URL, or `IN_PACKAGE`; empty without weights."""
    path: Path | None = None
    """The weights on this machine, in the package or the cache of the hub or of torch.hub; None if they would be
    downloaded."""


IN_PACKAGE = "part of detrkit"
"""Origin of weights that come with the package: trained on generated images, not on COCO."""

COSTS = {
    "detrkit_n": (2.6, 7.9),
    "detrkit_s": (22.4, 91.6),
    "detrkit_m": (33.6, 123.2),
    "detrkit_l": (45.0, 163.6),
    "detr_resnet50": (41.5, 77.1),
    "detr_resnet50_dc5": (41.5, 149.2),
    "detr_resnet101": (60.4, 137.7),
    "detr_resnet101_dc5": (60.4, 209.8),
    "deformable_r50": (41.1, 162.2),
    "h_deformable_r50": (47.8, 218.1),
    "dab_r50": (44.4, 84.3),
    "dn_r50": (44.4, 84.3),
    "dino_r50": (47.5, 235.6),
    "rtdetr_r18": (20.1, 60.2),
    "rtdetr_r50": (42.8, 133.6),
    "detr_resnet50_panoptic": (42.9, 176.5),
    "detr_resnet50_dc5_panoptic": (42.9, 327.9),
    "detr_resnet101_panoptic": (61.8, 237.1),
}
"""Name -> millions of parameters and GFLOPs, as in `NamedModel`, of the models that detrkit builds: architectures with
20 classes, panoptic DETRs with the 250 of COCO and the masks of all queries."""


def list_models() -> list[NamedModel]:
    """All models that have a name: architectures first, then published weights alone.

    names = [each.name for each in detrkit.list_models()]
    """
    names = [*MODELS, *(name for name in (*PUBLISHED, *HUB_MODELS) if name not in MODELS)]
    return [_named_model(name) for name in names]


def _named_model(name: str) -> NamedModel:
    """The entry of a name, put together from the tables of architectures and weights."""
    architecture, reference, hub = name in MODELS, PUBLISHED.get(name), HUB_MODELS.get(name)
    if architecture:
        description = (MODELS[name].__doc__ or "").splitlines()[0]
    else:
        description = hub.description if hub else "DETR with a panoptic mask head."
    parameters, gflops = COSTS[name] if name in COSTS or not hub else (hub.parameters, hub.gflops)
    if reference:
        return NamedModel(
            name, description, True, architecture, parameters, gflops, round(reference.box_ap / 100, 3),
            "github.com/facebookresearch/detr", reference.license, reference.url,
            reference.path if reference.path.is_file() else None,
        )  # fmt: skip
    if hub:
        return NamedModel(
            name, description, False, architecture, parameters, gflops, round(hub.box_ap / 100, 3),
            hub.source, hub.license, hub.hub_id, cached(hub.hub_id),
        )  # fmt: skip
    if name in PACKAGED:
        return NamedModel(
            name, description, False, architecture, parameters, gflops,
            license="Apache-2.0", origin=IN_PACKAGE, path=PACKAGED[name],
        )  # fmt: skip
    return NamedModel(name, description, False, architecture, parameters, gflops)
