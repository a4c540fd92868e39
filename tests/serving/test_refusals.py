"""Requests that a server refuses: a status and one sentence, and the next request is answered as ever."""

from __future__ import annotations

import copy
import io
import json
import pickle
import socket
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit import Detector

from .conftest import Client, encode, form_of, noise, png, png_chunk, running

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


@pytest.fixture(autouse=True)
def _still_answers(client: Client, photo: bytes) -> Iterator[None]:
    yield
    assert client.predict(photo).status == 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?threshold=2", "expected another value of threshold, found '2': Input should be less than or equal to 1"),
        ("?threshold=nan", "threshold"),
        ("?threshold=high", "'high'"),
        ("?top_k=-1", "top_k"),
        ("?top_k=1e9", "top_k"),
        ("?masks=all", "'rle', 'polygon' or 'none'"),
        ("?treshold=0.5", "treshold"),
        ("?polygon_tolerance=inf", "polygon_tolerance"),
    ],
)
def test_a_wrong_setting_is_named(client: Client, photo: bytes, query: str, sentence: str) -> None:
    answer = client.predict(photo, query)
    assert answer.status == 422
    assert sentence in answer.sentence


def test_a_model_that_is_not_there_is_named(client: Client, photo: bytes) -> None:
    answer = client.predict(photo, "?model=cats")
    assert answer.status == 404
    assert "boxes, masks" in answer.sentence


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused(client: Client, chunked: bool) -> None:
    body: Any = b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)
    answer = client.predict(iter([body[:1000], body[1000:]]) if chunked else body)
    assert answer.status == 413
    assert "at most 1 MB" in answer.sentence


def test_a_large_body_is_refused_before_it_is_sent(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 9000000000\r\n\r\n")
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_many_images_are_refused(client: Client, photo: bytes) -> None:
    answer = client.form(*[("images", "a.png", photo)] * 5)
    assert answer.status == 413
    assert "at most 4 images" in answer.sentence


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (2**31 - 1, 2**31 - 1), (30_000, 30_000)])
def test_pixels_are_counted_before_they_are_decoded(client: Client, width: int, height: int) -> None:
    answer = client.predict(png(width, height, png_chunk(b"IDAT", zlib.compress(bytes(100)))))
    assert answer.status == 413
    assert "at most 1 million pixels" in answer.sentence


def no_images() -> dict[str, bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.png", b"")
    return {
        "nothing": b"",
        "text": b"photo.jpg",
        "path": b"/etc/passwd",
        "url": b"http://127.0.0.1/photo.jpg",
        "json": json.dumps({"image": "aGVsbG8="}).encode(),
        "pickle": pickle.dumps(Path("photo.jpg")),
        "zip": packed.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.7\n",
        "video": bytes(4) + b"ftypisom" + bytes(100),
        "numpy": b"\x93NUMPY\x01\x00" + bytes(100),
        "ppm": b"P6 2 2 255\n" + bytes(12),
    }


@pytest.mark.parametrize("kind", no_images())
def test_other_files_are_no_images(client: Client, kind: str) -> None:
    answer = client.predict(no_images()[kind], headers={"Content-Type": "image/png"})
    assert answer.status == 415
    assert "expected JPEG, PNG, WebP, BMP, TIFF or GIF" in answer.sentence


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(client: Client, image_format: str, share: float) -> None:
    data = encode(np.random.default_rng(0).integers(0, 256, (60, 80, 3)), image_format)
    assert client.predict(data).status == 200
    answer = client.predict(data[: int(share * len(data))])
    assert answer.status == 422
    assert "cannot be decoded" in answer.sentence


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_several_frames_are_refused(client: Client, image_format: str) -> None:
    more = [Image.fromarray(noise(seed=k)) for k in (1, 2)]
    answer = client.predict(encode(noise(), image_format, save_all=True, append_images=more))
    assert answer.status == 422
    assert "several frames" in answer.sentence


def test_a_photo_with_a_preview_is_one_image(client: Client) -> None:
    data = encode(noise(), "MPO", save_all=True, append_images=[Image.fromarray(noise(30, 40))])
    assert client.predict(data).json["images"][0]["width"] == 80


def test_a_jpeg_of_endless_scans_is_refused(client: Client) -> None:
    data = encode(noise(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    answer = client.predict(data[:start] + data[start:-2] * 101 + data[-2:])
    assert answer.status == 422
    assert "scans" in answer.sentence


def test_a_form_takes_files_alone(client: Client, photo: bytes) -> None:
    for value in (b"http://127.0.0.1/photo.jpg", b"/etc/passwd", b"0.5"):
        answer = client.form(("images", "a.png", photo), ("images", None, value))
        assert answer.status == 422
        assert "neither paths nor URLs are read" in answer.sentence
    assert "found none" in client.form().sentence


def test_a_form_that_is_cut_off_is_refused_whole(client: Client, photo: bytes) -> None:
    body, kind = form_of(("images", "a.png", photo), ("images", "b.png", photo))
    for cut in (10, 100, len(photo), len(photo) + 100):
        answer = client.request("POST", "/v1/predict", body[:-cut], {"Content-Type": kind})
        assert answer.status == 422
        assert "cut off" in answer.sentence


def test_one_broken_image_of_several_is_named(client: Client, photo: bytes) -> None:
    answer = client.form(("images", "good.png", photo), ("images", "bad.png", photo[:-30]))
    assert answer.status == 422
    assert "bad.png" in answer.sentence


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=\u00e9; charset=nothing",
        "multipart/form-data; boundary=edge; charset=utf-7",
    ],
)
def test_garbled_forms_are_refused(client: Client, photo: bytes, kind: str) -> None:
    body = form_of(("images", "a.png", photo))[0]
    for content in (body, body[:100], body.replace(b"name=", b"nom="), body.replace(b"\r\n", b"\n"), b""):
        answer = client.request("POST", "/v1/predict", content, {"Content-Type": kind})
        assert answer.status in (200, 422)
        assert answer.status == 200 or answer.sentence


class Gate:
    """A detector that waits for `open` before it answers."""

    def __init__(self, detector: Detector) -> None:
        self.detector = copy.copy(detector)
        self.open, self.entered, self.images = threading.Event(), threading.Event(), 0
        detect = detector.detect

        def wait(batch: Any, **settings: Any) -> Any:
            self.images += len(batch)
            self.entered.set()
            assert self.open.wait(30)
            return detect(batch, **settings)

        self.detector.detect = wait  # type: ignore[method-assign]
        self.detector.warmup = lambda: None  # type: ignore[method-assign]


@pytest.fixture
def gate(detector: Detector) -> Gate:
    return Gate(detector)


def ask_in_threads(count: int, ask: Callable[[], Any]) -> tuple[list[threading.Thread], list[Any]]:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_beyond_the_queue_requests_are_refused_and_those_in_it_are_answered(gate: Gate, photo: bytes) -> None:
    with running({"boxes": gate.detector}, max_queue=4) as (client, service):
        threads, answers = ask_in_threads(4, lambda: client.predict(photo))
        until(lambda: service.admission.images == 4)
        for answer in (client.predict(photo), client.form(("images", "a.png", photo), ("images", "b.png", photo))):
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "busy with 4 of at most 4 images" in answer.sentence
        assert client.get("/healthz").status == 200
        gate.open.set()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 4
        assert (service.admission.images, service.admission.bytes, len(service.admission.per_client)) == (0, 0, 0)
        assert client.predict(photo).status == 200


def test_one_client_may_have_so_many_images_and_no_more(gate: Gate, photo: bytes) -> None:
    with running({"boxes": gate.detector}, max_per_client=2) as (client, service):
        threads, _ = ask_in_threads(2, lambda: client.predict(photo))
        until(lambda: service.admission.images == 2)
        answer = client.predict(photo)
        assert answer.status == 429
        assert "retry-after" in answer.headers
        assert "at most 2 images" in answer.sentence
        gate.open.set()
        for thread in threads:
            thread.join()


def test_an_answer_has_a_deadline(gate: Gate, photo: bytes) -> None:
    with running({"boxes": gate.detector}, deadline=0.5) as (client, service):
        threads, answers = ask_in_threads(3, lambda: client.predict(photo))
        for thread in threads:
            thread.join()
        assert {answer.status for answer in answers} == {504}
        assert "within 0.5 seconds" in answers[0].sentence
        assert service.admission.images == 0
        gate.open.set()
        until(lambda: client.predict(photo).status == 200)


def test_an_upload_has_a_deadline(client: Client, detector: Detector, photo: bytes) -> None:
    with running({"boxes": detector}, deadline=0.5) as (client, service):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\n" + photo[:100])
            connection.settimeout(10)
            answer = b""
            while part := connection.recv(1000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"expected the whole upload within 0.5 seconds" in answer
        assert service.admission.images == 0


def test_clients_that_go_away_cost_nothing_further(gate: Gate, photo: bytes) -> None:
    request = b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo
    with running({"boxes": gate.detector}) as (client, service):
        first = socket.create_connection(("127.0.0.1", client.port))
        first.sendall(request)
        assert gate.entered.wait(20)
        others = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(5)]
        for k, connection in enumerate(others):
            connection.sendall(request[: len(request) - 10 * (k % 2)])  # some are not even complete
        until(lambda: service.admission.images == 6)
        for connection in (first, *others):
            connection.close()
        until(lambda: service.admission.images == 0)
        gate.open.set()
        assert client.predict(photo).status == 200
        assert gate.images == 2  # the one that had begun, and the last


def test_a_bug_is_one_sentence_and_no_other_image_suffers(
    detector: Detector, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    broken = copy.copy(detector)
    detect = detector.detect

    def fail_on_two(batch: Any, **settings: Any) -> Any:
        if any(target["original_size"] == (61, 81) for target in batch.targets):
            raise RuntimeError("/secret/path")
        return detect(batch, **settings)

    broken.detect = fail_on_two  # type: ignore[method-assign]
    images = [photo, encode(noise(61, 81)), photo]
    with running({"boxes": broken}, batch_wait=500) as (client, service):
        service.models["boxes"].batcher._expected = 3
        answers: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda k=k: answers.update({k: client.predict(images[k])})) for k in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answers[k].status for k in range(3)] == [200, 500, 200]
    assert "a bug of detrkit" in answers[1].sentence
    assert "secret" not in answers[1].sentence
