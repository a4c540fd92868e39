"""Make screenshots of docs/studio.md: the pages on runs, results and trials, on a project as the demo leaves it.

    detrkit demo --output_dir project/runs/demo
    mv project/runs/demo/data project/data
    detrkit eval project/data --weights project/runs/demo
    python benchmarks/studio_screenshots.py project docs/images --labels LABELS

LABELS is a copy of a data set with boxes, for the pages on images and labels; the guide shows the blood cells of BCCD.
It needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZE = {"width": 1280, "height": 800}
LONG = 300_000
"""Milliseconds to wait for what loads a model."""


def main() -> None:
    """Open the pages of the studio, and write their screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--labels", type=Path)
    flags = parser.parse_args()
    if flags.labels:
        shoot(flags.labels, flags.output, {"images": images, "label": label}, quality=74)
    shoot(flags.project, flags.output, {"train": train, "results": results, "try": try_detector}, quality=82)


def shoot(project: Path, output: Path, pages: dict[str, Callable[[Page, Path], None]], quality: int) -> None:
    """Write screenshots of the studio of one folder.

    Args:
        project: project folder.
        output: folder to write to.
        pages: name of each page, and the function that shows it.
        quality: of the files, 0 to 100.
    """
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "detrkit", "studio", str(project), "--port", "0", "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as studio, sync_playwright() as playwright:
        assert studio.stdout
        address = next(match[0] for line in studio.stdout if (match := re.search(r"http://\S+", line)))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(LONG)
        page.goto(address)
        try:
            for name, show in pages.items():
                show(page, project)
                page.wait_for_timeout(1500)
                image = Image.open(io.BytesIO(page.screenshot()))
                image.save(output / f"studio_{name}.webp", quality=quality, method=6)
        finally:
            browser.close()
            studio.terminate()


def first_image(project: Path) -> Path:
    """An image of the held-out ones."""
    return sorted((project / "data/images/val").iterdir())[3]


def images(page: Page, project: Path) -> None:
    """Show the grid with labels."""
    page.locator("#pages").get_by_role("link", name="Images").click()
    page.locator(".tile .objects").first.wait_for()
    page.evaluate("Promise.all([...document.querySelectorAll('.tile img')].map((image) => image.decode()))")


def label(page: Page, project: Path) -> None:
    """Show an image of many objects with one of them selected."""
    page.get_by_label("Sort by").select_option("objects")
    page.wait_for_timeout(1500)
    page.locator(".tile").first.click()
    page.locator(".object-list .line").nth(2).click()
    page.mouse.move(0, 0)


def train(page: Page, project: Path) -> None:
    """Start a second training, and show both while it runs."""
    page.locator("#pages").get_by_role("link", name="Train").click()
    page.get_by_role("link", name="New training").click()
    page.get_by_label("image size").fill("64")
    page.get_by_label("batch size").fill("16")
    page.get_by_label("epochs").fill("6")
    page.get_by_label("Name").fill("smaller images")
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("epoch 2 of 6").wait_for()


def results(page: Page, project: Path) -> None:
    """Show the confusion matrix and the images of a cell."""
    page.locator("#pages").get_by_role("link", name="Results").click()
    page.get_by_role("link", name="demo").first.click()
    page.locator(".matrix .wrong").first.click()
    page.wait_for_timeout(500)
    page.locator(".matrix").evaluate("(matrix) => matrix.scrollIntoView({ block: 'center' })")


def try_detector(page: Page, project: Path) -> None:
    """Show detections on an image, and where the model looked."""
    page.locator("#pages").get_by_role("link", name="Try").click()
    page.get_by_label("Detector").select_option("runs/demo")
    page.locator("#try-files").set_input_files(str(first_image(project)))
    page.get_by_text("detections are shown").wait_for()
    page.get_by_role("button", name="Where the model looked").first.click()
    page.locator(".attention img").wait_for()


if __name__ == "__main__":
    main()
