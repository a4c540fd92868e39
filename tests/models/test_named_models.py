"""The table of named models: each name once, with the costs of the model that is built under it."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import detrkit
from detrkit.config.presets import MODELS
from detrkit.config.train import TrainConfig
from detrkit.models import build_model
from detrkit.models.checkpoints import PUBLISHED
from detrkit.models.checkpoints import published as published_module
from detrkit.models.checkpoints.hub_models import HUB_MODELS
from detrkit.models.fuse_bn import fold_norms
from detrkit.models.named_models import COSTS, IN_PACKAGE

NAMES = {model.name: model for model in detrkit.list_models()}


def settings(name: str) -> dict[str, Any]:
    """Keywords of `build_model` for a model whose costs are tabulated."""
    if name in MODELS:
        return asdict(TrainConfig.from_recipe("classic", model=name).model_config(num_classes=20))
    entry = PUBLISHED[name]
    return {"num_classes": len(entry.categories), **entry.model_args}


QUICK = {"detrkit_n", "detrkit_s", "detr_resnet50", "deformable_r50", "rtdetr_r18", "detr_resnet50_panoptic"}
"""Models whose costs are checked in every run of the tests; those of the others belong to the slow ones."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COSTS]
)
def test_costs_are_those_of_the_built_model(name: str) -> None:
    model = build_model(**settings(name)).eval().requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    folded = fold_norms(model)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes without arithmetic
        images = torch.zeros(1, 3, 640, 640, dtype=torch.uint8)
        padding = torch.zeros(1, 640, 640, dtype=torch.bool)
        with FlopCounterMode(display=False) as counter:
            if name in MODELS:
                folded.forward_detection(images, padding, last_only=True)
            else:
                folded(images, padding)
    costs = round(parameters, 1), round(counter.get_total_flops() / 1e9, 1)
    assert all(math.isclose(*pair, abs_tol=0.051) for pair in zip(COSTS[name], costs, strict=True)), (
        f'put this into models/named_models.py: "{name}": {costs}'
    )


def test_every_model_is_listed_once_with_its_costs() -> None:
    assert list(NAMES) == [model.name for model in detrkit.list_models()]
    assert set(NAMES) == {*MODELS, *PUBLISHED, *HUB_MODELS}
    assert set(COSTS) == {*MODELS, *PUBLISHED}
    for model in NAMES.values():
        assert model.parameters > 0
        assert model.gflops > 0
        assert model.description.endswith(".") or ", " in model.description, model.name
        assert model.architecture is (model.name in MODELS)
        weights = [model.license, model.origin]
        weights += [model.coco_ap, model.ap_source] if model.origin != IN_PACKAGE else [model.path]
        assert all(weights) or not any(weights), model.name


def test_architectures_with_weights_elsewhere_name_them() -> None:
    assert NAMES["rtdetr_r18"].origin == "PekingU/rtdetr_r18vd"
    assert NAMES["detr_resnet50"].published
    assert NAMES["detr_resnet50"].coco_ap == 0.42
    assert NAMES["detrkit_n"].origin == IN_PACKAGE
    assert NAMES["detrkit_s"].origin == ""


def test_ids_on_the_hub_are_distinct_and_well_formed() -> None:
    ids = [model.hub_id for model in HUB_MODELS.values()]
    assert len({*ids}) == len(ids)
    for name, model in HUB_MODELS.items():
        assert model.name == name
        assert model.hub_id.count("/") == 1
        assert 0 < model.box_ap < 100
        assert "://" not in model.source


def test_weights_in_the_caches_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cached() == {}
    entry = replace(PUBLISHED["detr_resnet50"])
    monkeypatch.setitem(published_module.PUBLISHED, "detr_resnet50", entry)
    entry.path.parent.mkdir(parents=True)
    entry.path.touch()
    snapshot = hub_snapshot(tmp_path / "hub", "ustc-community/dfine-nano-coco")
    (snapshot / "config.json").write_text("{}")
    assert list(cached()) == ["detr_resnet50"]  # no weights yet
    (snapshot / "model.safetensors").touch()
    assert cached() == {"detr_resnet50": entry.path, "dfine_n": snapshot}


def cached() -> dict[str, Path]:
    """Path of the weights of each model that is in a cache."""
    return {model.name: model.path for model in detrkit.list_models() if model.path and model.origin != IN_PACKAGE}


def hub_snapshot(cache: Path, hub_id: str) -> Path:
    """An empty snapshot of a model in a cache of the hub."""
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot
