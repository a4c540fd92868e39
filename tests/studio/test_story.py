"""The story of a new user, in a browser: from images without labels to a detector, and on to better labels."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detrkit.data.synthetic.generate import make_demo_dataset

from .conftest import HARMFUL, StudioClient, page_of
from .test_label_browser import drag

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETTINGS = {"epochs": "20", "image size": "64", "batch size": "2", "num queries": "10"}
"""Settings of a training that takes seconds."""

LONG = 240_000
"""Milliseconds in which a process of its own starts and ends on a busy machine."""


@contextmanager
def studio_process(folder: Path) -> Iterator[tuple[StudioClient, subprocess.Popen[str]]]:
    """`detrkit studio` as people start it."""
    command = [sys.executable, "-m", "detrkit", "studio", str(folder), "--port", "0", "--no_browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        match = None
        for line in process.stdout:
            if match := re.search(r":(\d+)/\?token=(\S+)", line):
                break
        assert match, "the studio has ended"
        yield StudioClient(int(match[1]), {"Authorization": f"Bearer {match[2]}"}), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def unlabeled(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, list[list[float]]]]:
    """A folder with images alone, and the boxes of their objects by file name."""
    count = request.param + 3
    data = make_demo_dataset(tmp_path / "source", images=2 * count, size=96, difficulty=0.0, seed=1)
    content = json.loads((data / "train.json").read_text())
    folder = tmp_path / "my project"
    folder.mkdir()
    boxes: dict[str, list[list[float]]] = {}
    for image in content["images"]:
        found = [row["bbox"] for row in content["annotations"] if row["image_id"] == image["id"]]
        if found and len(boxes) < count:
            path = next(data.rglob(Path(image["file_name"]).name))
            shutil.copy(path, folder / path.name)
            boxes[path.name] = found
    return folder, dict(sorted(boxes.items()))


def draw_boxes(page: Page, boxes: list[list[float]], known: bool) -> None:
    """Draw boxes by hand; the first object ever names its class."""
    # the image is fitted into its frame once that has its size
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.keyboard.press("b")
    for x, y, width, height in boxes:
        drag(page, (x, y), (x + width, y + height))
        if not known:
            page.get_by_text("Name the first class").wait_for()
            page.keyboard.type(HARMFUL)
            page.keyboard.press("Enter")
            page.get_by_role("heading", name="1 object").wait_for()
            known = True
    page.get_by_role("heading", name=f"{len(boxes)} object{'' if len(boxes) == 1 else 's'}").wait_for()


def labels_of(folder: Path) -> dict[str, Any]:
    """The images that were saved, each with its last objects."""
    lines = (folder / "studio_labels/journal.jsonl").read_text().splitlines()
    return {row["image"]: row["objects"] for row in map(json.loads, lines) if "image" in row}


def start_training(page: Page, name: str) -> None:
    """Start a training with tiny settings from the page."""
    page.get_by_role("link", name="Train", exact=True).click()
    page.get_by_role("link", name="New training").click()
    page.get_by_label("image size").wait_for(timeout=LONG)
    assert page.get_by_label("Data").input_value() == "studio_labels"
    for setting, value in SETTINGS.items():
        page.get_by_label(setting).fill(value)
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Start training").click()
    page.locator(".runs li", has_text=name).wait_for(timeout=LONG)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("unlabeled", [6, pytest.param(20, marks=pytest.mark.slow)], indirect=True)
def test_from_images_without_labels_to_a_detector_and_better_labels(
    browser: Browser, unlabeled: tuple[Path, dict[str, list[list[float]]]]
) -> None:
    folder, boxes = unlabeled
    labeled, left = list(boxes)[:-3], list(boxes)[-3:]
    with studio_process(folder) as (studio, _), page_of(browser, studio) as page:
        page.get_by_text(f"{len(boxes)} images").first.wait_for(timeout=LONG)

        # label by hand
        page.get_by_role("link", name="Label", exact=True).click()
        for k, name in enumerate(labeled):
            page.get_by_role("heading", name=name).wait_for()
            draw_boxes(page, boxes[name], known=k > 0)
            page.keyboard.press("n")
        page.get_by_role("heading", name=left[0]).wait_for()
        saved = labels_of(folder)
        assert list(saved) == labeled
        for name in labeled:
            drawn = [value for row in saved[name] for value in row["bbox"]]
            assert drawn == pytest.approx([value for box in boxes[name] for value in box], abs=1.5)

        # train for a moment
        start_training(page, "first")
        run = page.locator(".runs li", has_text="first")
        run.get_by_text("finished").wait_for(timeout=LONG)
        assert (folder / "runs/first/best.ckpt").is_file()
        run.get_by_role("link", name="Results").click()
        page.get_by_role("heading", name="Mistakes, at").wait_for()
        assert HARMFUL in page.locator("table").nth(1).inner_text()

        # correct three images from detections
        page.go_back()
        page.get_by_role("link", name="Label", exact=True).click()
        for name in left:
            page.goto(f"http://127.0.0.1:{studio.port}/#/label/{name}")
            page.get_by_role("heading", name=name).wait_for()
            page.get_by_label("Score from").fill("0.05")
            page.get_by_role("button", name="Suggest").click()
            suggested = page.get_by_role("heading", name="suggested")
            suggested.or_(page.get_by_text("The detector finds nothing else")).first.wait_for(timeout=LONG)
            if suggested.is_visible():
                page.get_by_role("button", name="Accept ").first.click()
                if page.get_by_role("button", name="Reject all").is_visible():  # there were others
                    page.get_by_role("button", name="Reject all").click()
            else:  # so short a training does not find everything
                draw_boxes(page, boxes[name], known=True)
                page.locator("#toast button").click()
            page.locator("#main .object-list .line").first.click()
            page.keyboard.press("Shift+ArrowRight")
            page.keyboard.press("Control+s")
            page.get_by_text("Saved", exact=True).first.wait_for()
        assert list(labels_of(folder)) == [*labeled, *left]

        # export, and measure on the new labels
        page.get_by_role("button", name="Export").click()
        page.get_by_role("button", name="Export", exact=True).click()
        page.get_by_text(f"{len(boxes)} images").first.wait_for(timeout=LONG)
        assert next((folder / "studio_exports/export").rglob("*.json"))
        page.get_by_role("button", name="Close").click()
        page.get_by_role("link", name="Results", exact=True).click()
        page.get_by_label("Images", exact=False).last.select_option("train")
        page.get_by_role("button", name="Evaluate").click()
        page.get_by_text("studio_labels (train)").wait_for(timeout=LONG)
        assert (folder / "runs/first/report-studio_labels-train/metrics.json").is_file()

        # reload, and back
        page.reload()
        page.get_by_role("link", name="first").first.click()
        page.get_by_role("heading", name="Mistakes, at").wait_for()
        page.go_back()
        page.get_by_role("heading", name="Results").wait_for()
        assert page.locator("h2, h1, td, th, label, button").filter(has=page.locator("img")).count() == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("unlabeled", [1], indirect=True)
def test_two_tabs_and_a_studio_that_was_killed_lose_nothing(
    browser: Browser, unlabeled: tuple[Path, dict[str, list[list[float]]]]
) -> None:
    folder, boxes = unlabeled
    first, second = list(boxes)[:2]
    with studio_process(folder) as (studio, process), page_of(browser, None) as page:
        page.goto(f"{studio.url}#/label/{first}")
        page.get_by_role("heading", name=first).wait_for(timeout=LONG)
        draw_boxes(page, boxes[first], known=False)
        page.keyboard.press("Control+s")
        page.get_by_text("Saved", exact=True).first.wait_for()

        tab = page.context.new_page()
        tab.goto(f"http://127.0.0.1:{studio.port}/#/label/{first}")
        tab.get_by_text("Saved", exact=True).first.wait_for()
        for each in (tab, page):  # the second save is of an older version
            each.keyboard.press("i")
            each.keyboard.press("Control+s")
        tab.get_by_text("Saved", exact=True).first.wait_for()
        page.get_by_text("saved in another tab").first.wait_for()
        assert len(labels_of(folder)[first]) == len(boxes[first]) + 1
        tab.close()

        page.goto(f"http://127.0.0.1:{studio.port}/#/label/{second}")
        page.get_by_role("heading", name=second).wait_for()
        draw_boxes(page, boxes[second], known=True)
        page.keyboard.press("Control+s")
        page.get_by_text("Saved", exact=True).first.wait_for()
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.keyboard.press("i")
        page.keyboard.press("Control+s")
        page.get_by_text("The studio does not answer").wait_for()
    with studio_process(folder) as (studio, _), page_of(browser, studio, f"#/label/{second}") as page:
        page.get_by_text("Saved", exact=True).first.wait_for(timeout=LONG)
        assert page.locator(".object-list li").count() == len(boxes[second])
        assert labels_of(folder).keys() == {first, second}
