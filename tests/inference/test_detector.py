"""Detector: every form of image, and results that depend on the image alone."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detections, Detector, build_model
from detrkit.errors import ConfigError, DataError, WeightsError
from detrkit.inference.streaming import WINDOW
from detrkit.structures import Preprocessing


def same(a: Detections, b: Detections, tolerance: float = 0.0) -> bool:
    return (
        len(a) == len(b)
        and a.class_names == b.class_names
        and torch.allclose(a.scores, b.scores, atol=tolerance, rtol=0)
        and torch.allclose(a.xyxy, b.xyxy, atol=tolerance * 100, rtol=0)
    )


def test_every_form_of_an_image_gives_the_same(detector: Detector, some_images: Path) -> None:
    path = some_images / "5.png"
    pixels = np.array(Image.open(path))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    actual = detector.predict(path, threshold=0)
    assert isinstance(actual, Detections)
    assert len(actual) == 9
    for form in (str(path), Image.open(path), pixels, tensor, tensor / 255):
        assert same(detector.predict(form, threshold=0), actual)


def test_detections_are_sorted_with_original_ids_names_sizes_and_sources(detector: Detector, some_images: Path) -> None:
    path = some_images / "deep" / "tall.png"
    actual = detector.predict(path, threshold=0)
    assert actual.scores.tolist() == sorted(actual.scores.tolist(), reverse=True)
    names = dict(zip(detector.categories.ids, detector.categories.names, strict=True))
    assert [names[i] for i in actual.class_ids.tolist()] == list(actual.class_names)
    assert actual.image_size == (90, 50)
    assert not actual.xyxy.requires_grad
    actual.xyxy.add_(0)  # may be changed in place
    assert actual.source == str(path)
    assert detector.predict(Image.open(path)).source is None


def test_folders_globs_and_lists_give_lists_in_order(detector: Detector, some_images: Path) -> None:
    actual = detector.predict(some_images, threshold=0)
    names = [Path(d.source).relative_to(some_images).as_posix() for d in actual]
    assert names == ["12.png", "5.png", "deep/7.png", "deep/tall.png", "wide.png"]
    globbed = detector.predict(str(some_images / "*.png"), threshold=0)
    assert [Path(d.source).name for d in globbed] == ["12.png", "5.png", "wide.png"]
    assert [d.source for d in detector.predict(str(some_images / "**" / "7.png"))] == [
        str(some_images / "deep" / "7.png")
    ]
    listed = detector.predict(
        [some_images / "5.png", Image.open(some_images / "wide.png"), some_images / "deep"], threshold=0
    )
    for given, expected in zip(listed, (actual[1], actual[4], actual[2], actual[3]), strict=True):
        assert same(given, expected)
    assert detector.predict([]) == []


@pytest.mark.parametrize("top_k", [0, 12])
def test_a_result_does_not_depend_on_the_batch(detector: Detector, some_images: Path, top_k: int) -> None:
    alone = detector.predict(some_images, threshold=0, top_k=top_k)
    together = detector.predict(some_images, threshold=0, top_k=top_k, batch_size=4)
    assert [d.source for d in together] == [d.source for d in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.class_ids.tolist() == other.class_ids.tolist()  # and so the order
        assert same(one, other, tolerance=1e-5)


def test_only_images_of_one_shape_share_a_pass(
    detector: Detector, some_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    detect = detector.detect

    def spy(batch, *settings):
        batches.append(batch)
        return detect(batch, *settings)

    monkeypatch.setattr(detector, "detect", spy)
    detector.predict(some_images, batch_size=4)
    assert sorted(len(batch) for batch in batches) == [1, 1, 3]
    assert not any(batch.padding_mask.any() for batch in batches)


def test_few_images_are_in_memory_at_once(detector: Detector) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield torch.zeros(3, 32 + 16 * (taken % 2), 48, dtype=torch.uint8), None

    results = list(islice(detector.stream(endless(), batch_size=2), 9))
    assert len(results) == 9
    assert taken <= 9 + 2 * WINDOW
    taken = 0
    next(detector.stream(endless()))
    assert taken == 1


def test_threshold_and_top_k(detector: Detector, some_images: Path) -> None:
    path = some_images / "5.png"
    everything = detector.predict(path, threshold=0)
    limit = everything.scores[4].item()
    assert len(detector.predict(path, threshold=limit)) == 5
    assert len(detector.predict(path, threshold=1)) == 0
    pairs = detector.predict(path, threshold=0, top_k=12)
    assert len(pairs) == 12  # more than the 9 queries: some come under several classes
    assert len(pairs.xyxy.unique(dim=0)) < 12
    assert len(detector.predict(path, threshold=0, top_k=1000)) == 9 * 3


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("top_k", -1), ("batch_size", 0)])
def test_settings_out_of_range_are_refused(detector: Detector, some_images: Path, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}.* found {value}"):
        detector.predict(some_images, **{name: value})


def test_missing_files_are_refused(detector: Detector, some_images: Path, tmp_path: Path) -> None:
    for nothing in (tmp_path / "no.jpg", tmp_path, str(tmp_path / "*.jpg"), tmp_path / "no.mp4"):
        with pytest.raises(DataError, match=r"no\.jpg|found none|found nothing"):
            list(detector.predict(nothing))
    with pytest.raises(DataError, match=r"clip\.mp4, found nothing"):
        detector.predict([some_images / "5.png", "clip.mp4"])
    for no_image in (None, 5.0, True, object(), [some_images / "5.png", None]):
        with pytest.raises(DataError, match="expected an image as a path"):
            detector.predict(no_image)  # type: ignore[call-overload]
    with pytest.raises(DataError, match=r"0\.\.1"):
        detector.predict(torch.full((3, 8, 8), 200.0))


def test_a_file_whose_name_looks_like_a_glob_is_a_file(detector: Detector, some_images: Path, tmp_path: Path) -> None:
    path = tmp_path / "part[1].png"
    path.write_bytes((some_images / "5.png").read_bytes())
    assert isinstance(detector.predict(path), Detections)


def test_it_prepares_images_as_evaluation_does(detector: Detector, some_images: Path) -> None:
    from detrkit.data.records import ImageRecord, Split
    from detrkit.evaluation.accumulator import DetectionAccumulator, collect_split

    images = [
        ImageRecord(5, some_images / "5.png", "5.png", 60, 80, []),
        ImageRecord(9, some_images / "wide.png", "", 40, 100, []),
    ]
    split = Split("val", images, detector.categories, "test")
    collector = DetectionAccumulator(dict(enumerate(detector.categories.ids)))
    collect_split(detector.model, split, detector.categories, collector, preprocessing=Preprocessing(64), device="cpu")
    rows = list(collector.detections)
    for image in images:
        mine = detector.predict(image.path, threshold=0).to_coco(image.id)
        theirs = sorted((row for row in rows if row["image_id"] == image.id), key=lambda row: -row["score"])
        assert mine == theirs


def test_load_takes_the_size_of_training_or_another(checkpoint: Path) -> None:
    assert Detector.load(checkpoint).image_size == 64
    assert Detector.load(checkpoint.parent, image_size=96).image_size == 96  # a run folder
    assert not Detector.load(checkpoint).model.training


def test_load_never_fetches_a_backbone_and_warns_of_assumptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    model = build_model(
        num_classes=4, backbone="resnet18", hidden_dim=32, enc_layers=1, dec_layers=1, dim_feedforward=32
    )
    torch.save({"model": model.state_dict()}, tmp_path / "bare.pth")
    with pytest.warns(UserWarning, match="is assumed") as notes:
        detector = Detector.load(tmp_path / "bare.pth", device="cpu")
    assert any("DC5" in str(note.message) for note in notes)
    assert detector.categories.names == ("0", "1", "2", "3")


def test_load_refuses_impossible_settings(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        Detector.load(tmp_path / "nowhere.ckpt")
    with pytest.raises(ConfigError, match="device quantum"):
        Detector.load(checkpoint, device="quantum")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device cuda"):
            Detector.load(checkpoint, device="cuda")


def test_a_detector_can_be_made_of_parts(detector: Detector, some_images: Path) -> None:
    detector.model.train()
    again = Detector(detector.model, detector.categories, 64, "cpu")
    assert not again.model.training
    assert same(again.predict(some_images / "5.png", threshold=0), detector.predict(some_images / "5.png", threshold=0))


def test_results_can_be_drawn_and_handed_on(detector: Detector, some_images: Path) -> None:
    actual = detector.predict(some_images / "5.png", threshold=0)
    assert actual.draw(some_images / "5.png").dtype == np.uint8
    assert actual.to_supervision().data["class_name"].tolist() == list(actual.class_names)
    assert json.loads(json.dumps(actual.to_coco(5)))[0]["image_id"] == 5
    assert same(actual[0], actual[:1])
    assert same(actual[-1], actual[[len(actual) - 1]])
    assert len(list(actual)) == len(actual)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same(checkpoint: Path, detector: Detector, some_images: Path) -> None:
    on_gpu = Detector.load(checkpoint, device="cuda")
    for one, other in zip(
        on_gpu.predict(some_images, threshold=0), detector.predict(some_images, threshold=0), strict=True
    ):
        assert one.xyxy.device.type == "cpu"
        assert torch.allclose(one.scores, other.scores, atol=1e-2)
