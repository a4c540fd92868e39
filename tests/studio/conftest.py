"""The studio of a project folder on a free port, a client that has its token, and a page of it in a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.browser import browser
from tests.serving.conftest import Answer, Client

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

__all__ = ["browser"]

collect_ignore_glob: list[str] = []
if find_spec("fastapi") is None:
    collect_ignore_glob.append("test_*.py")  # tests/serving says that they are skipped

TOKEN = "t-1"
HARMFUL = "<img src=x onerror=alert(1)>"
"""A name that does harm where it becomes HTML."""


@dataclass(frozen=True)
class StudioClient:
    """Sends requests with the token."""

    port: int
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {TOKEN}"})

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        token = self.headers["Authorization"].removeprefix("Bearer ")
        return f"http://127.0.0.1:{self.port}/?token={token}"

    def get(self, path: str, **headers: str) -> Answer:
        return Client(self.port).request("GET", path, None, {**self.headers, **headers})

    def send(self, path: str, body: Any, method: str = "POST", **headers: str) -> Answer:
        """Send JSON."""
        content = {"Content-Type": "application/json", **self.headers, **headers}
        return Client(self.port).request(method, path, json.dumps(body).encode(), content)


@contextmanager
def studio_of(folder: Path) -> Iterator[StudioClient]:
    """Run the studio of a folder in a thread."""
    import uvicorn

    from detrkit.serving.server import bind
    from detrkit.studio import create_app

    bound = bind("127.0.0.1", 0)
    config = uvicorn.Config(create_app(folder, TOKEN), log_level="critical", loop="asyncio", http="h11", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield StudioClient(bound.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def image_folder(folder: Path, count: int = 4, size: tuple[int, int] = (80, 60)) -> Path:
    """Write images of coarse noise, `0.png`, `1.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        coarse = np.random.default_rng(k).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / f"{k}.png")
    return folder


@contextmanager
def page_of(
    browser: Browser,
    studio: StudioClient | None,
    hash: str = "",
    width: int = 1280,
    refusals: bool = False,
    **options: Any,
) -> Iterator[Page]:
    """Open the studio; complaints of the browser and connections to elsewhere fail the test.

    Args:
        browser: to open it in.
        studio: to open; None: a page that the test opens, where complaints are allowed.
        hash: page of the studio.
        width: of the window.
        refusals: whether the studio refuses requests in this test, which browsers complain about.
        options: of the browser's context.
    """
    trouble: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(30_000)  # machines that run tests may be busy
    if studio:
        here = studio.url.partition("?")[0]

        def on_console(message: ConsoleMessage) -> None:
            refused = refusals and "the server responded with a status of" in message.text
            if message.type in ("error", "warning") and not refused:
                trouble.append(message.text)

        page.on("console", on_console)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(f"dialog: {dialog.message}"))
        page.on("request", lambda r: None if r.url.startswith((here, "blob:", "data:")) else trouble.append(r.url))
        page.goto(studio.url + hash)
    try:
        yield page
        assert trouble == []
    finally:
        context.close()


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression of JavaScript holds; playwright's `wait_for_function` would need `unsafe-eval`."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(expression)


def coco_folder(folder: Path, count: int = 4, names: tuple[str, ...] = ("cell", HARMFUL)) -> Path:
    """A data set of COCO: images of 80 x 60 pixels, one object of each class in every image, the second with a mask."""
    image_folder(folder / "images", count)
    images = [{"id": 10 + k, "file_name": f"{k}.png", "width": 80, "height": 60} for k in range(count)]
    rows: list[dict[str, Any]] = []
    for image in images:
        box = {"bbox": [5, 5, 20, 10], "area": 200, "category_id": 1}
        mask = {"bbox": [30, 20, 40, 30], "area": 600, "category_id": 7, "segmentation": [[30, 20, 70, 20, 70, 50]]}
        rows += [
            {"id": len(rows) + 1 + k, "image_id": image["id"], "iscrowd": 0, **row} for k, row in enumerate((box, mask))
        ]
    categories = [{"id": 1, "name": names[0]}, {"id": 7, "name": names[1]}]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))
    return folder
