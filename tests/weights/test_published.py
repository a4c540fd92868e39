"""The published checkpoints: their data, the cache, and what happens without a network."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.models.checkpoints import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES, PUBLISHED, load_weights
from detrkit.models.checkpoints import published as module

from .small import SMALL, small_model


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads fail as they do offline; the URLs that were asked for."""
    urls: list[str] = []

    def download(url: str, dst: str, **_: Any) -> None:
        urls.append(url)
        raise URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return urls


def small_entry(monkeypatch: pytest.MonkeyPatch, url: str, **changes: Any) -> None:
    """Let detr_resnet50_dc5 be a small file elsewhere."""
    entry = replace(
        PUBLISHED["detr_resnet50_dc5"], url=url, model_args={"backbone": "resnet18", "dilation": True}, **changes
    )
    monkeypatch.setitem(module.PUBLISHED, "detr_resnet50_dc5", entry)


def test_entries() -> None:
    assert {name: entry.box_ap for name, entry in PUBLISHED.items()} == {
        "detr_resnet50": 42.0, "detr_resnet50_dc5": 43.3, "detr_resnet101": 43.5, "detr_resnet101_dc5": 44.9,
        "detr_resnet50_panoptic": 38.8, "detr_resnet50_dc5_panoptic": 40.2, "detr_resnet101_panoptic": 40.1,
    }  # fmt: skip
    assert {name: (entry.mask_ap, entry.pq) for name, entry in PUBLISHED.items() if entry.pq} == {
        "detr_resnet50_panoptic": (31.1, 43.4),
        "detr_resnet50_dc5_panoptic": (31.9, 44.6),
        "detr_resnet101_panoptic": (33.0, 45.1),
    }
    assert [entry.sha256_prefix for entry in PUBLISHED.values()] == [
        "e632da11", "f0fb7ef5", "2c7b67e5", "a2e86def", "00ce5173", "da08f1b1", "40021d53",
    ]  # fmt: skip
    for name, entry in PUBLISHED.items():
        masks = "panoptic" in name
        end = r"-panoptic-[0-9a-f]{8}\.pth" if masks else r"-[0-9a-f]{8}\.pth"
        assert re.fullmatch(r"https://dl\.fbaipublicfiles\.com/detr/detr-r\d+(-dc5)?" + end, entry.url)
        expected = {"backbone": name.split("_")[1], "dilation": "dc5" in name} | ({"masks": True} if masks else {})
        assert entry.model_args == expected
        assert (entry.name, entry.license, entry.image_size) == (name, "Apache-2.0", 800)
        assert len(entry.categories) == (250 if masks else 91)


def test_coco_panoptic_names(shared_data: Path) -> None:
    ours = COCO_PANOPTIC_CATEGORIES
    rows = zip(ours.ids, ours.names, ours.isthing, strict=True)
    named = {i: (name, int(thing)) for i, name, thing in rows if "N/A" not in name}
    path = shared_data / "coco_panoptic_mini" / "annotations" / "panoptic_train2017.json"
    assert named == {c["id"]: (c["name"], c["isthing"]) for c in json.loads(path.read_text())["categories"]}


def test_coco_names(shared_data: Path) -> None:
    named = {i: name for i, name in zip(COCO_CATEGORIES.ids, COCO_CATEGORIES.names, strict=True) if "N/A" not in name}
    rows = json.loads((shared_data / "coco_mini" / "val.json").read_text())["categories"]
    assert named == {category["id"]: category["name"] for category in rows}


def test_coco_categories_are_unique() -> None:
    assert COCO_CATEGORIES.ids == tuple(range(91))
    assert len(set(COCO_CATEGORIES.names)) == 91
    assert sum(name.startswith("N/A") for name in COCO_CATEGORIES.names) == 11


def test_offline_names_the_place_for_the_file(hub_cache: Path, no_network: list[str]) -> None:
    with pytest.raises(WeightsError) as error:
        load_weights("detr_resnet50")
    sentence = str(error.value)
    assert "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth" in sentence
    assert f"put the file at {hub_cache / 'detr-r50-e632da11.pth'}" in sentence
    assert "\n" not in sentence
    assert no_network == ["https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"]


def test_a_file_put_there_is_used(hub_cache: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small_entry(monkeypatch, "https://example.org/detr-small-00000000.pth")
    torch.save({"model": small_model(num_classes=91).state_dict()}, hub_cache / "detr-small-00000000.pth")
    weights = load_weights("detr_resnet50_dc5")
    assert no_network == []
    assert weights.source == "detr_resnet50_dc5"
    assert weights.categories == COCO_CATEGORIES
    assert weights.model_args["dilation"] is True
    assert weights.messages == ()


def test_download_checks_the_hash(tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.pth"
    torch.save({"model": small_model(num_classes=91).state_dict()}, file)
    prefix = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    good, bad = tmp_path / f"detr-small-{prefix}.pth", tmp_path / "detr-small-00000000.pth"
    good.write_bytes(file.read_bytes())
    bad.write_bytes(file.read_bytes())
    small_entry(monkeypatch, bad.as_uri())
    with pytest.raises(WeightsError, match="invalid hash value"):
        load_weights("detr_resnet50_dc5")
    assert list(hub_cache.iterdir()) == []
    small_entry(monkeypatch, good.as_uri())
    assert load_weights("detr_resnet50_dc5").model_args["num_queries"] == SMALL["num_queries"]
    assert [path.name for path in hub_cache.iterdir()] == [good.name]


def test_a_renamed_published_file_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dilation leaves no trace in a bare state dict; the file's hash tells it."""
    file = tmp_path / "my-download.pth"
    torch.save({"model": small_model(num_classes=91).state_dict()}, file)
    prefix = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    small_entry(monkeypatch, f"https://example.org/detr-small-{prefix}.pth")
    weights = load_weights(file)
    assert weights.model_args["dilation"] is True
    assert weights.assumed.keys() == {"nheads"}
