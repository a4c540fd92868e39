"""Answers are those of `Detector.predict`, in every form of request."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit import Detections, Detector
from detrkit.exporting.formats.export_format import TracedGraph
from detrkit.exporting.formats.torch_program import write_torch
from detrkit.exporting.graph import Graph, trace
from detrkit.ops.masks import decode_segmentation
from detrkit.serving.answers import ModelsAnswer, PredictAnswer
from tests.export.small import metadata, small_model

from .conftest import Client, encode, form_of, noise, running


def assert_same(rows: list[dict[str, Any]], detections: Detections) -> None:
    """The tolerance is that of batches against single images."""
    assert [row["class_id"] for row in rows] == detections.class_ids.tolist()
    assert [row["class_name"] for row in rows] == list(detections.class_names)
    np.testing.assert_allclose([row["score"] for row in rows], detections.scores, atol=1e-5)
    np.testing.assert_allclose([row["box"] for row in rows], detections.xyxy, atol=1e-2)


def test_an_image_gets_the_detections_of_the_detector(client: Client, detector: Detector, photo: bytes) -> None:
    answer = client.predict(photo, "?threshold=0.1")
    assert answer.status == 200
    PredictAnswer.model_validate(answer.json)
    (image,) = answer.json["images"]
    assert answer.json["model"] == "boxes"
    assert answer.json["milliseconds"] > 0
    assert (image["height"], image["width"]) == (60, 80)
    assert image["detections"]
    assert_same(image["detections"], detector.predict(photo, threshold=0.1))


def test_settings_reach_the_detector(client: Client, detector: Detector, photo: bytes) -> None:
    (image,) = client.predict(photo, "?threshold=0&top_k=4").json["images"]
    assert_same(image["detections"], detector.predict(photo, threshold=0, top_k=4))
    assert len(image["detections"]) == 4
    (image,) = client.predict(photo, "?threshold=0&top_k=0&max_overlap=0.3").json["images"]
    every = detector.predict(photo, threshold=0, top_k=0)
    assert_same(image["detections"], every.without_overlaps(0.3))
    assert len(image["detections"]) < len(every)


def test_several_images_of_several_shapes_come_back_in_order(
    client: Client, detector: Detector, some_images: Path
) -> None:
    paths = sorted(some_images.rglob("[0-9tw]*.png"))[:4]
    answer = client.form(*(("images", path.name, path.read_bytes()) for path in paths), query="?threshold=0.1")
    assert [image["name"] for image in answer.json["images"]] == [path.name for path in paths]
    for image, path in zip(answer.json["images"], paths, strict=True):
        assert_same(image["detections"], detector.predict(path, threshold=0.1))


def test_exif_rotation_is_applied(client: Client, detector: Detector) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(noise(), "JPEG", exif=exif.tobytes())
    (image,) = client.predict(data, "?threshold=0.1").json["images"]
    assert (image["height"], image["width"]) == (80, 60)
    assert_same(image["detections"], detector.predict(data, threshold=0.1))


def test_deep_images_say_what_was_assumed(client: Client) -> None:
    import cv2

    data = cv2.imencode(".png", noise().astype(np.uint16) * 257)[1].tobytes()
    (image,) = client.predict(data).json["images"]
    assert len(image["notes"]) == 1


def test_masks_come_as_rle_polygons_or_not_at_all(client: Client, mask_detector: Detector, photo: bytes) -> None:
    expected = mask_detector.predict(photo, threshold=0.1)
    assert expected.masks is not None
    answers = {
        form: client.predict(photo, f"?model=masks&threshold=0.1&polygon_tolerance=0&{form}").json["images"][0]
        for form in ("", "masks=rle", "masks=polygon", "masks=none")
    }
    assert answers[""] == answers["masks=rle"]
    for row, mask in zip(answers["masks=rle"]["detections"], expected.masks, strict=True):
        assert torch.equal(decode_segmentation(row["mask"], 60, 80), mask)
    for row, mask in zip(answers["masks=polygon"]["detections"], expected.masks, strict=True):
        if mask.any():
            assert torch.equal(decode_segmentation(row["polygons"], 60, 80), mask)
    assert all("mask" not in row and "polygons" not in row for row in answers["masks=none"]["detections"])
    assert "boxes alone" in client.predict(photo, "?masks=rle").sentence


def test_models_are_listed_with_original_ids(client: Client) -> None:
    answer = ModelsAnswer.model_validate(client.get("/v1/models").json)
    assert [model.name for model in answer.models] == ["boxes", "masks"]
    assert [(row.id, row.name) for row in answer.models[0].classes] == [(3, "scratch"), (7, "pit"), (20, "stain")]
    assert [model.masks for model in answer.models] == [False, True]


def test_requests_at_a_time_share_batches_and_get_their_own_answers(detector: Detector) -> None:
    images = [encode(noise(60, 80 + (k % 2), seed=k)) for k in range(16)]
    expected = [detector.predict(image, threshold=0.1) for image in images]
    answers: dict[int, Any] = {}
    with running({"boxes": detector}, batch_wait=200) as (client, service):

        def ask(k: int) -> None:
            answers[k] = client.predict(images[k], "?threshold=0.1")

        for _ in range(2):
            threads = [threading.Thread(target=ask, args=(k,)) for k in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        sizes = service.metrics.registry.get_sample_value("detrkit_batch_size_count", {"model": "boxes"})
    assert sizes < 32
    for k, detections in enumerate(expected):
        assert_same(answers[k].json["images"][0]["detections"], detections)


def test_large_images_are_cut_into_tiles(checkpoint: Path, photo: bytes) -> None:
    tiled = Detector.load(checkpoint, device="cpu", tiles=64, tile_overlap=16)
    with running({"boxes": tiled}) as (client, _):
        (image,) = client.predict(photo, "?threshold=0.1").json["images"]
        (whole,) = client.predict(encode(noise(40, 50)), "?threshold=0.1").json["images"]
    assert_same(image["detections"], tiled.predict(photo, threshold=0.1))
    assert_same(whole["detections"], tiled.predict(noise(40, 50), threshold=0.1))


def test_exported_files_are_served(tmp_path: Path, photo: bytes) -> None:
    model = small_model("classic")
    write_torch(TracedGraph(trace(Graph(model), size=None, batch_size=None), metadata(model)), tmp_path / "model.pt2")
    exported = Detector.load(tmp_path / "model.pt2", device="cpu")
    with running({"exported": exported}) as (client, _):
        (image,) = client.predict(photo, "?threshold=0").json["images"]
    assert_same(image["detections"], exported.predict(photo, threshold=0))


def test_the_page_and_the_document_need_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/docs")
    text = page.body.decode()
    assert page.status == 200
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path in client.get("/openapi.json").json["paths"]:
        assert path in text
    assert "threshold" in text


def test_figures_count_requests_and_images(client: Client, photo: bytes) -> None:
    client.predict(photo)
    text = client.get("/metrics").body.decode()
    assert 'detrkit_requests_total{status="200"}' in text
    assert 'detrkit_images_total{model="boxes"}' in text
    assert "detrkit_request_seconds_bucket" in text
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ready"}


def test_a_key_is_needed_where_there_is_one(detector: Detector, photo: bytes) -> None:
    with running({"boxes": detector}, key="secret-7") as (client, _):
        for path in ("/v1/models", "/metrics"):
            assert client.get(path).status == 401
            assert client.get(path, Authorization="Bearer secret-7").status == 200
        for wrong in ("Bearer secret-8", "Bearer", "secret-7", "Basic secret-7", "Bearer s\u00e9cret"):
            answer = client.predict(photo, "?threshold=2", {"Authorization": wrong})
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer KEY" in answer.sentence
        assert client.predict(photo, headers={"Authorization": "Bearer secret-7"}).status == 200
        assert client.get("/healthz").status == client.get("/readyz").status == client.get("/docs").status == 200
        assert "<form" not in client.get("/docs").body.decode()


@pytest.mark.parametrize("kind", ["", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_the_type_is_that_of_the_content(client: Client, photo: bytes, kind: str) -> None:
    assert client.request("POST", "/v1/predict", photo, {"Content-Type": kind} if kind else {}).status == 200


def test_a_chunked_body_is_read(client: Client, photo: bytes) -> None:
    body, kind = form_of(("images", "a.png", photo), ("images", "b.png", photo))
    answer = client.request("POST", "/v1/predict", iter([body[:50], body[50:]]), {"Content-Type": kind})
    assert [image["name"] for image in answer.json["images"]] == ["a.png", "b.png"]
