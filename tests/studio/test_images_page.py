"""The page Images: what the server lists and sends, and the grid in a browser."""

from __future__ import annotations

import io
import json
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from detrkit.data.files.file_index import FileIndex
from tests.serving.conftest import png, png_chunk

from .conftest import HARMFUL, StudioClient, coco_folder, image_folder, page_of, studio_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def listed(studio: StudioClient) -> dict[str, Any]:
    """The list of images, once it is complete."""
    for _ in range(3000):
        answer = studio.get("/api/images").json
        if answer["ready"]:
            return dict(answer)
        time.sleep(0.02)
    raise AssertionError("not ready")


def test_an_unlabeled_folder_is_listed_and_says_that_it_has_no_labels(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    (folder / "0.png").rename(folder / f"{HARMFUL}.png")
    (folder / "notes.txt").write_text("no image")
    with studio_of(folder) as studio:
        answer = listed(studio)
        assert [row[0] for row in answer["images"]] == ["1.png", "2.png", "3.png", f"{HARMFUL}.png"]
        assert answer["images"][0][1:] == [80, 60, "", 0, [], [], [], -1, None]
        assert answer["classes"] == []
        assert answer["notes"]
        image = studio.get(f"/api/thumbnail?image={quote(HARMFUL)}.png")
        assert image.headers["content-type"] == "image/jpeg"


def test_labels_are_listed_with_split_classes_sizes_and_findings(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][2]["bbox"] = [-9, 5, 20, 10]
    (folder / "train.json").write_text(json.dumps(content))
    with studio_of(folder) as studio:
        answer = listed(studio)
        assert answer["classes"] == [{"id": 1, "name": "cell"}, {"id": 7, "name": HARMFUL}]
        rows = {row[0]: row[1:] for row in answer["images"]}
        assert rows["images/0.png"] == [80, 60, "train", 0, [1, 7], [0], [], -1, None]
        (finding,) = rows["images/1.png"][6]
        assert answer["defects"][finding]
        objects = studio.send("/api/objects", {"images": ["images/0.png", "nothing.png"]}).json["objects"]
        assert objects == {
            "images/0.png": [
                {"class": 1, "box": [5, 5, 25, 15], "polygons": [], "crowd": False},
                {"class": 7, "box": [30, 20, 70, 50], "polygons": [[30, 20, 70, 20, 70, 50]], "crowd": False},
            ]
        }


def test_near_duplicates_and_suspects_are_found(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with Image.open(folder / "images/1.png") as image:
        image.save(folder / "images/copy.jpg", quality=90)
    (folder / "runs/x").mkdir(parents=True)
    row = {"reason": "no label", "label": "", "label_box": None, "detected": HARMFUL, "detected_box": [1, 2, 9, 9]}
    rows = [{**row, "split": "train", "file_name": "2.png", "score": score} for score in (0.7, 0.4)]
    (folder / "runs/x/suspects.json").write_text(json.dumps({"suspects": rows}))
    with studio_of(folder) as studio:
        assert listed(studio)["suspects"] == "runs/x/suspects.json"
        studio.send("/api/duplicates", {})
        for _ in range(3000):
            answer = listed(studio)
            if answer["duplicates"]["done"]:
                break
            time.sleep(0.02)
        groups = {row[0]: row[8] for row in answer["images"]}
        assert groups["images/1.png"] == groups["images/copy.jpg"] >= 0
        assert groups["images/0.png"] == -1
        assert {row[0]: row[9] for row in answer["images"]}["images/2.png"] == 0.7
        suspects = studio.get("/api/labels?image=images/2.png").json["suspects"]
        assert [row["score"] for row in suspects] == [0.7, 0.4]
        assert (suspects[0]["box"], suspects[0]["detected"]) == ([1, 2, 9, 9], HARMFUL)


def test_runs_labels_and_exports_of_the_studio_are_no_images_of_the_project(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "set")
    for name in ("studio_labels", "studio_exports/a", "runs/x", ".studio"):
        image_folder(folder / name, 1)
    for name in ("config.yaml", "metrics.csv"):
        (folder / "runs/x" / name).write_text("")
    assert [path.name for path in FileIndex(folder).images] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(FileIndex(folder / "runs/x").images) == 1  # named itself, it is what was meant
    with studio_of(folder) as studio:
        assert len(listed(studio)["images"]) == 4


def test_odd_images_are_shown_or_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "odd", 1, (900, 700))
    whole = (folder / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("<script>alert(1)</script>")
    rows = zlib.compress(b"\0" * (20_000 * 3 + 1) * 10)
    (folder / "large.png").write_bytes(png(20_000, 10_000, png_chunk(b"IDAT", rows)))
    Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100)).save(folder / "deep.png")
    with Image.open(folder / "0.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(folder / "turned.jpg", exif=exif)
        image.save(folder / "0.tif")
    with studio_of(folder) as studio:
        rows_of = {row[0]: row for row in listed(studio)["images"]}
        assert set(rows_of) == {path.name for path in folder.iterdir() if path.is_file()}
        assert rows_of["turned.jpg"][1:3] == [700, 900]
        for name in ("0.png", "truncated.png", "deep.png", "turned.jpg", "0.tif"):
            for kind in ("thumbnail", "image"):
                answer = studio.get(f"/api/{kind}?image={name}")
                assert answer.status == 200, (kind, name)
                assert answer.headers["content-type"] in ("image/jpeg", "image/png")
        for name in ("empty.png", "text.jpg", "large.png"):
            for kind in ("thumbnail", "image"):
                assert name in studio.get(f"/api/{kind}?image={name}").sentence
        assert "200000000 pixels" in studio.get("/api/image?image=large.png").sentence
        copies = [path for path in (folder / ".studio/thumbnails").rglob("*.jpg") if "-large" not in path.name]
        assert len(copies) == 5
        for path in copies:
            with Image.open(path) as small:
                assert max(small.size) <= 256


def test_a_thumbnail_is_made_once_and_again_for_another_image(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a", 1)
    with studio_of(folder) as studio:
        listed(studio)
        first = studio.get("/api/thumbnail?image=0.png")
        tag = first.headers["etag"]
        assert studio.get("/api/thumbnail?image=0.png", **{"If-None-Match": tag}).status == 304
        Image.new("RGB", (80, 60), "red").save(folder / "0.png")
        assert studio.get("/api/thumbnail?image=0.png", **{"If-None-Match": tag}).body != first.body


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png", "", "0.png\0", "away/x.png"])
def test_no_image_outside_of_the_project_is_sent(tmp_path: Path, name: str) -> None:
    folder = image_folder(tmp_path / "project", 1)
    image_folder(tmp_path / "other", 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "away").symlink_to(tmp_path / "other")
    with studio_of(folder) as studio:
        answer = listed(studio)
        assert [row[0] for row in answer["images"]] == ["0.png"]
        assert any("lead out of the project folder" in note for note in answer["notes"])
        for kind in ("thumbnail", "image"):
            assert studio.get(f"/api/{kind}?image={quote(name)}").status == 404


def shown_names(page: Page) -> list[str]:
    """Names of the tiles that exist."""
    return page.locator(".tile .name").all_text_contents()


def test_the_grid_filters_by_name_class_and_labels_and_comes_back_to_its_place(
    browser: Browser, tmp_path: Path
) -> None:
    folder = coco_folder(tmp_path / "set")
    image_folder(folder / "more", 2)
    with studio_of(folder) as studio, page_of(browser, studio) as page:
        page.get_by_role("heading", name="6 images").wait_for()
        page.locator(".tile .objects .outline").first.wait_for()
        assert page.locator(".tile .objects polygon.outline").count() == 4
        page.get_by_label("Show").select_option(label="without labels")
        page.get_by_role("heading", name="2 of 6 images").wait_for()
        assert shown_names(page) == ["0.png", "1.png"]
        page.get_by_role("searchbox", name="Name").fill("1.PNG")
        page.get_by_role("heading", name="1 of 6 images").wait_for()
        page.reload()
        page.get_by_role("heading", name="1 of 6 images").wait_for()
        page.get_by_role("searchbox", name="Name").fill("nothing")
        page.get_by_text("No image passes these filters.").wait_for()
        page.get_by_role("searchbox", name="Name").fill("")
        page.get_by_label("Show").select_option(label="all images")
        page.get_by_label("Class").select_option(label=HARMFUL)
        page.get_by_role("heading", name="4 of 6 images").wait_for()
        page.get_by_role("button", name="Find near-duplicates").click()
        page.get_by_role("heading", name="2 of 6 images").wait_for()  # their copies in `more` have no such object


def test_ten_thousand_images_make_no_more_tiles_than_are_in_view(browser: Browser, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "many", 1, (8, 8))
    for k in range(9999):
        (folder / f"{k:05}.png").hardlink_to(folder / "0.png")
    with studio_of(folder) as studio, page_of(browser, studio) as page:
        page.set_default_timeout(60_000)
        page.get_by_role("heading", name="10000 images").wait_for()
        assert page.locator(".tile").count() < 100
        page.locator(".tile").first.focus()
        page.keyboard.press("End")
        page.get_by_title("09998.png").wait_for()
        assert page.evaluate("document.activeElement.title") == "09998.png"
        page.keyboard.press("ArrowUp")
        assert page.evaluate("document.activeElement.title") == "09991.png"
        assert page.locator(".tile").count() < 100
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.evaluate(
            """async () => {
              const main = document.querySelector("main");
              for (let k = 0; k < 30; k++) {
                main.scrollTop = k * 5000;
                await new Promise(requestAnimationFrame);
              }
            }"""
        )
        page.wait_for_timeout(300)
        assert page.locator(".tile").count() < 100
        assert len(requests) < 1000  # of 1800: images that are scrolled past are not asked for


def test_deep_images_without_labels_are_not_shown_black(tmp_path: Path) -> None:
    gray = np.linspace(0, 4095, 80 * 60).reshape(60, 80).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "deep.png")
    with studio_of(tmp_path) as studio:
        shown = Image.open(io.BytesIO(studio.get("/api/image?image=deep.png").body))
    assert np.asarray(shown).max() > 240
