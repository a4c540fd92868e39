"""Measure the grid of the studio with 10,000 images: start, first images in view, and frames while it is scrolled.

    python benchmarks/studio_grid.py [--images 10000]

It needs Chromium and playwright. Images are JPEGs of 640 x 480 with five boxes each; thumbnails are made while it runs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCROLL = """async ({ step, frames }) => {
    const main = document.querySelector("main");
    const times = [];
    const long = [];
    const observer = new PerformanceObserver((list) => long.push(...list.getEntries().map((entry) => entry.duration)));
    observer.observe({ entryTypes: ["longtask"] });
    let before = await new Promise(requestAnimationFrame);
    for (let k = 0; k < frames; k++) {
      main.scrollTop += step;
      const now = await new Promise(requestAnimationFrame);
      times.push(now - before);
      before = now;
    }
    observer.disconnect();
    return { times, long };
}"""
"""Scroll by a number of pixels per frame; milliseconds per frame, and of tasks above 50 ms."""

IN_VIEW = """() => {
    const frames = [...document.querySelectorAll(".tile img")].filter((image) => {
      const { top, bottom } = image.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    });
    return frames.length > 9 && frames.every((image) => image.complete && image.naturalWidth);
}"""
"""Whether all tiles in view show their image."""


def make_data(folder: Path, count: int) -> None:
    """Write a COCO data set of noise: files of 64 different images, each with five boxes."""
    images, rows = [], []
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for k in range(count):
        path = folder / f"images/{k:05}.jpg"
        if k < 64:
            coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((640, 480)).save(path, quality=85)
        else:
            shutil.copy(folder / f"images/{k % 64:05}.jpg", path)
        images.append({"id": k + 1, "file_name": path.name, "width": 640, "height": 480})
        for x, y, width, height in generator.integers(5, 300, (5, 4)).tolist():
            box = {"bbox": [x, y, width, min(height, 470 - y)], "area": width * height, "iscrowd": 0}
            rows.append({"id": len(rows) + 1, "image_id": k + 1, "category_id": 1 + len(rows) % 4, **box})
    categories = [{"id": k, "name": f"class {k}"} for k in (1, 2, 3, 4)]
    (folder / "train.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def wait_for(page: Page, expression: str) -> None:
    """Wait until an expression of JavaScript holds."""
    while not page.evaluate(expression):
        page.wait_for_timeout(5)


def describe(name: str, content: dict[str, Any]) -> None:
    """Print the frames of a scroll."""
    times = np.array(content["times"])
    median, high = np.percentile(times, (50, 99))
    longest = max(content["long"], default=0)
    print(f"{name}: median {median:.0f} ms per frame, 99th percentile {high:.0f} ms, longest {times.max():.0f} ms, "
          f"tasks above 50 ms: {len(content['long'])}, longest {longest:.0f} ms", flush=True)  # fmt: skip


def measure(folder: Path) -> None:
    """Start the studio of a folder, open it in Chromium, and scroll."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "detrkit", "studio", str(folder), "--port", "0", "--no_browser"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as studio:
            try:
                assert studio.stdout
                address = next(match[0] for line in studio.stdout if (match := re.search(r"http://\S+", line)))
                listening = time.perf_counter() - started
                for name in ("at once", "again"):
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.set_default_timeout(120_000)
                    began = time.perf_counter()
                    page.goto(address)
                    page.locator(".tile").first.wait_for()
                    grid = time.perf_counter() - began
                    wait_for(page, IN_VIEW)
                    shown = time.perf_counter() - began
                    print(f"opened {name}: grid after {grid:.2f} s, all images in view after {shown:.2f} s", flush=True)
                print(f"the studio listened after {listening:.2f} s")
                describe("slow scroll (30 pixels per frame)", page.evaluate(SCROLL, {"step": 30, "frames": 200}))
                describe("fast scroll (600 pixels per frame)", page.evaluate(SCROLL, {"step": 600, "frames": 200}))
                describe("jumps (9,000 pixels per frame)", page.evaluate(SCROLL, {"step": 9000, "frames": 20}))
                began = time.perf_counter()
                wait_for(page, IN_VIEW)
                print(f"all images in view {time.perf_counter() - began:.2f} s after the last jump")
                began = time.perf_counter()
                page.get_by_label("Class").select_option(label="class 2")
                wait_for(page, IN_VIEW)
                print(f"filter by class: all images in view after {time.perf_counter() - began:.2f} s")
            finally:
                browser.close()
                studio.terminate()


def main() -> None:
    """Make the data, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the data is, or is made and kept; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "project"
        if not folder.exists():
            make_data(folder, arguments.images)
        measure(folder)


if __name__ == "__main__":
    main()
