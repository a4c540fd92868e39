"""A disk that is really full under the studio and the server: a sentence on the page, and nothing confirmed is lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detrkit.data.formats.detect import open_dataset
from tests.inference.conftest import checkpoint, detector, some_images
from tests.small_disk import SmallDisk, small_disk

from .conftest import StudioClient, image_folder, page_of, studio_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from detrkit import Detector

__all__ = ["checkpoint", "detector", "some_images"]

BOX = {"class_id": 1, "box": [5, 5, 25, 15], "polygons": []}
FULL = "No space left on device; make room on the disk and try again."


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "80m") as mounted:
        yield mounted


@pytest.fixture
def project(disk: SmallDisk, checkpoint: Path) -> Path:
    folder = image_folder(disk.path / "project")
    run = folder / "runs/one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: data\nrecipe: fast\nmodel: detrkit_n\nepochs: 4\n")
    shutil.copy(checkpoint, run / "best.ckpt")
    return folder


def save_until_full(studio: StudioClient) -> int:
    """Save an image until its line does not fit into the last block; returns the version that was confirmed."""
    version = int(studio.get("/api/labels?image=3.png").json["version"])
    for objects in ([BOX] * 5, []):  # shorter and shorter lines
        while True:
            answer = studio.send("/api/labels?image=3.png", {"version": version, "objects": objects}, "PUT")
            if answer.status != 200:
                assert (answer.status, answer.sentence[-60:]) == (507, FULL.rstrip(".")[-60:])
                break
            version = answer.json["version"]
    return version


def journal(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "studio_labels/journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.timeout(300)
def test_every_change_is_refused_in_a_sentence_and_works_later(
    browser: Browser, disk: SmallDisk, project: Path
) -> None:
    with studio_of(project) as studio, page_of(browser, studio, "#/label/0.png", refusals=True) as page:
        studio.send("/api/classes", {"name": "cell"})
        page.reload()
        page.get_by_role("button", name="cell").wait_for()
        page.get_by_label("Score from").fill("0.05")
        page.get_by_role("button", name="Suggest").click()
        page.get_by_role("button", name="Accept all").wait_for()
        disk.fill()
        confirmed = save_until_full(studio)
        before = disk.files()

        # accept suggestions and save
        page.get_by_role("button", name="Accept all").click()
        page.keyboard.press("Control+s")
        page.locator("#toast", has_text=f"journal.jsonl: {FULL}").wait_for()
        page.get_by_text("Not saved").wait_for()
        page.locator("#toast button").click()

        # the next image is not shown before this one is saved
        page.keyboard.press("n")
        page.locator("#toast", has_text=FULL).wait_for()
        page.get_by_role("heading", name="0.png").wait_for()

        # undo, and classes, which are edited once the image is saved
        page.keyboard.press("Control+z")
        page.get_by_role("button", name="Accept all").wait_for()
        page.get_by_role("button", name="Edit classes").click()
        page.get_by_label("Name of cell").fill("a long name " * 16)
        page.get_by_role("button", name="Rename").first.click()
        page.get_by_role("dialog").get_by_text(FULL).wait_for()
        page.get_by_role("button", name="Close").last.click()

        # export
        page.get_by_role("button", name="Export").click()
        page.get_by_role("button", name="Export", exact=True).click()
        page.get_by_role("dialog").get_by_text(FULL).wait_for()
        page.get_by_role("button", name="Close").last.click()
        assert disk.files() == before

        # it all works once there is room
        disk.free()
        page.keyboard.press("Control+Shift+z")
        page.keyboard.press("Control+s")
        page.get_by_text("Saved", exact=True).first.wait_for()
        page.get_by_role("button", name="Export").click()
        page.get_by_role("button", name="Export", exact=True).click()
        page.get_by_text("studio_exports/export has 2 images").wait_for()
    rows = journal(project)
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    assert max(row["version"] for row in rows if row.get("image") == "3.png") == confirmed
    assert rows[-1]["image"] == "0.png"
    assert len(open_dataset(project / "studio_labels", val_fraction=0).splits["train"].images) == 2


@pytest.mark.timeout(300)
def test_the_pages_are_shown_and_nothing_is_started(browser: Browser, disk: SmallDisk, project: Path) -> None:
    with studio_of(project) as studio:
        studio.send("/api/classes", {"name": "cell"})
        assert studio.send("/api/labels?image=0.png", {"version": 0, "objects": [BOX]}, "PUT").status == 200
        disk.fill()
        save_until_full(studio)
        before = disk.files()
        with page_of(browser, studio, refusals=True) as page:
            page.locator(".tile img").nth(3).wait_for()  # thumbnails that cannot be kept are shown
            for image in page.locator(".tile img").all():
                image.evaluate("(node) => node.decode()")
            page.get_by_role("link", name="Train", exact=True).click()
            page.get_by_role("link", name="New training").click()
            page.locator("main").get_by_text(FULL).wait_for()
            page.get_by_role("link", name="Results", exact=True).click()
            page.get_by_role("button", name="Evaluate").click()
            page.locator("#toast", has_text=FULL).wait_for()
        answer = studio.send("/api/train/start", {"name": "two", "data": "studio_labels"})
        assert answer.status == 507
        cache = [name for name in disk.files() if ".studio" in name]
        assert {name: size for name, size in disk.files().items() if name not in cache} == before
        assert not [name for name in cache if disk.files()[name] >= 0]


def test_the_server_needs_no_disk(
    disk: SmallDisk, detector: Detector, some_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from detrkit.serving import create_app

    monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
    monkeypatch.chdir(disk.path)
    disk.fill()
    content = (some_images / "5.png").read_bytes()
    with TestClient(create_app({"mine": detector})) as client:
        one = client.post("/v1/predict?threshold=0", content=content)
        form = [("images", (f"{k}.png", content + bytes(2_000_000))) for k in range(3)]
        several = client.post("/v1/predict?threshold=0", files=form)
    assert (one.status_code, several.status_code) == (200, 200), several.text
    assert len(several.json()["images"]) == 3
    assert disk.files() == {}
