"""The application on a free port of this machine, and a client without other packages."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit import Detector
from detrkit.config.serving import ServeLimits
from tests.inference.conftest import checkpoint, detector, mask_checkpoint, mask_detector, some_images

__all__ = ["checkpoint", "detector", "mask_checkpoint", "mask_detector", "some_images"]

collect_ignore_glob: list[str] = []
if find_spec("fastapi") is None:
    collect_ignore_glob.append("test_[!m]*.py")  # test_missing_extra.py says that they are skipped


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sentence(self) -> str:
        """Of a refusal: one sentence on one line."""
        assert self.status >= 400, self
        assert set(self.json) == {"detail"}
        sentence = self.json["detail"]
        assert sentence
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        return str(sentence)


@dataclass(frozen=True)
class Client:
    """Sends requests to a server, each over a connection of its own."""

    port: int

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def predict(self, image: bytes, query: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send one image as the body."""
        return self.request("POST", f"/v1/predict{query}", image, {"Content-Type": "image/png"} | dict(headers or {}))

    def form(self, *parts: tuple[str, str | None, bytes], query: str = "") -> Answer:
        """Send a form of (field, file name, content)."""
        body, kind = form_of(*parts)
        return self.request("POST", f"/v1/predict{query}", body, {"Content-Type": kind})


def form_of(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, str]:
    """A form of (field, file name, content), and its content type."""
    lines = b""
    for field, name, content in parts:
        file = "" if name is None else f'; filename="{name}"'
        lines += f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return lines + b"--edge--\r\n", "multipart/form-data; boundary=edge"


@contextmanager
def running(
    detectors: Mapping[str, Detector], *, key: str | None = None, **limits: Any
) -> Iterator[tuple[Client, Any]]:
    """Run the application in a thread; gives a client and its service."""
    import uvicorn

    from detrkit.serving import create_app
    from detrkit.serving.server import bind

    app = create_app(detectors, ServeLimits(**limits), key=key)
    bound = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="critical", loop="asyncio", http="h11", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Client(bound.getsockname()[1]), app.state.service
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture(scope="package")
def client(detector: Detector, mask_detector: Detector) -> Iterator[Client]:
    """Of a server with a detector of boxes and one of masks."""
    with running({"boxes": detector, "masks": mask_detector}, max_upload_mb=1, max_megapixels=1, max_images=4) as (
        client,
        _,
    ):
        yield client


@pytest.fixture(scope="session")
def photo(some_images: Path) -> bytes:
    return (some_images / "5.png").read_bytes()


def encode(pixels: Any, image_format: str = "PNG", **options: Any) -> bytes:
    """An image file in memory."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, image_format, **options)
    return file.getvalue()


def noise(height: int = 60, width: int = 80, seed: int = 0) -> Any:
    """Coarse noise, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
