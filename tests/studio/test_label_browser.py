"""The page Label in a browser: drawing, correcting, keys, two tabs, suggestions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.inference.conftest import checkpoint, some_images

from .conftest import HARMFUL, coco_folder, image_folder, page_of, studio_of
from .projects import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["checkpoint", "some_images"]


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """The place on the screen of a point in pixels of the image."""
    place = page.evaluate(
        """([x, y]) => {
          const at = document.querySelector(".editor > g").getScreenCTM();
          return [at.a * x + at.e, at.d * y + at.f];
        }""",
        [x, y],
    )
    return place[0], place[1]


def drag(page: Page, *places: tuple[float, float]) -> None:
    """Drag the pointer along points of the image."""
    page.mouse.move(*point(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*point(page, *place), steps=3)
    page.mouse.up()


def wait_saved(page: Page) -> None:
    page.get_by_text("Saved", exact=True).first.wait_for()


def saves(folder: Path) -> list[dict[str, Any]]:
    """Lines of the journal."""
    return [json.loads(line) for line in (folder / "studio_labels/journal.jsonl").read_text().splitlines()]


def box_of(row: dict[str, Any]) -> list[int]:
    x, y, width, height = row["bbox"]
    return [round(value) for value in (x, y, x + width, y + height)]


def test_boxes_are_drawn_moved_resized_and_undone_and_survive_a_reload(browser: Browser, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/0.png") as page:
        page.get_by_role("heading", name="0.png").wait_for()
        drag(page, (10, 10), (30, 25))
        page.get_by_text("Name the first class").wait_for()
        page.keyboard.type(HARMFUL)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="1 object").wait_for()
        page.evaluate("document.querySelector('#toast').replaceChildren()")  # it may be gone by itself
        drag(page, (50, 30), (70, 50))
        page.keyboard.press("v")
        drag(page, (60, 40), (55, 35))  # moved by -5, -5
        drag(page, (65, 45), (75, 55))  # its corner
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+Shift+Z")
        page.get_by_text("Not saved").wait_for()
        page.keyboard.press("Control+s")
        wait_saved(page)
        (entry,) = [row for row in saves(folder) if "image" in row]
        assert [box_of(row) for row in entry["objects"]] == [[10, 10, 30, 25], [45, 25, 65, 45]]
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Alt+ArrowDown")
        page.keyboard.press("n")
        page.get_by_role("heading", name="1.png").wait_for()
        assert box_of(saves(folder)[-1]["objects"][1]) == [55, 25, 75, 46]
        page.keyboard.press("p")
        page.get_by_role("heading", name="2 objects").wait_for()
        page.reload()
        page.get_by_role("heading", name="2 objects").wait_for()
        assert page.locator(".editor rect.outline").count() == 2
        page.get_by_text("Former saves").click()
        page.get_by_role("button", name=": 2 objects").last.click()
        page.keyboard.press("Control+s")
        page.get_by_text("Not saved").wait_for(state="detached")
        assert box_of(saves(folder)[-1]["objects"][1]) == [45, 25, 65, 45]


def test_polygons_are_drawn_and_corrected_corner_by_corner(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/images%2F0.png") as page:
        page.get_by_role("heading", name="2 objects").wait_for()
        page.keyboard.press("g")
        for place in ((10, 30), (25, 30), (25, 50), (10, 50), (5, 40)):
            page.mouse.click(*point(page, *place))
        page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="3 objects").wait_for()
        page.keyboard.press("v")
        drag(page, (25, 50), (28, 55))  # a corner
        drag(page, (10, 40), (4, 40))  # the middle of a side becomes a corner
        page.keyboard.press("2")
        page.keyboard.press("Escape")
        page.mouse.click(*point(page, 15, 10))
        page.keyboard.press("Delete")
        page.keyboard.press("Control+s")
        wait_saved(page)
        rows = saves(folder)[-1]["objects"]
        assert [row["category_id"] for row in rows] == [7, 7]
        assert rows[0]["segmentation"] == [[30, 20, 70, 20, 70, 50]]
        corners = [round(value) for value in rows[1]["segmentation"][0]]
        assert corners == [10, 30, 25, 30, 28, 55, 10, 50, 4, 40]
        assert box_of(rows[1]) == [4, 30, 28, 55]


def test_everything_can_be_done_by_keys_and_the_view_zooms(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/images%2F0.png") as page:
        page.get_by_role("heading", name="2 objects").wait_for()
        for key in ("i", "ArrowLeft", ".", ",", ",", "Delete", "+", "+", "-"):
            page.keyboard.press(key)
        page.get_by_role("heading", name="2 objects").wait_for()
        scale = "document.querySelector('.editor > g').getScreenCTM().a"
        before = page.evaluate(scale)
        page.mouse.move(*point(page, 40, 30))
        page.mouse.wheel(0, -300)
        assert page.evaluate(scale) > before * 1.3
        page.keyboard.down(" ")
        drag(page, (40, 30), (45, 30))
        page.keyboard.up(" ")
        page.get_by_role("heading", name="2 objects").wait_for()  # the view moved, and nothing was drawn
        page.keyboard.press("f")
        assert page.evaluate(scale) < before
        page.keyboard.press("?")
        page.get_by_role("dialog", name="Keys").wait_for()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Save", exact=True).click()
        wait_saved(page)
        assert len(saves(folder)[-1]["objects"]) == 2


def test_a_second_tab_is_refused_and_keeps_its_changes_on_the_screen(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/images%2F0.png", refusals=True) as page:
        page.get_by_role("heading", name="2 objects").wait_for()
        other = page.context.new_page()
        other.goto(page.url)
        other.get_by_role("heading", name="2 objects").wait_for()
        for tab in (page, other):
            tab.locator(".line").first.click()
            tab.keyboard.press("Delete")
            tab.keyboard.press("Control+s")
            if tab is page:
                wait_saved(page)
        other.get_by_text("saved in another tab").wait_for()
        other.get_by_text("Not saved").wait_for()
        assert len(saves(folder)) == 1
        other.close()


def test_a_stopped_studio_is_said_and_changes_stay(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    with page_of(browser, None) as page:
        with studio_of(folder) as studio:
            page.goto(studio.url + "#/label/images%2F0.png")
            page.get_by_role("heading", name="2 objects").wait_for()
            page.locator(".line").first.click()
            page.keyboard.press("Delete")
        page.keyboard.press("Control+s")
        page.get_by_text("The studio does not answer").wait_for()
        page.get_by_text("Not saved").wait_for()
        assert not (folder / "studio_labels").exists()


def test_suggestions_of_a_detector_are_accepted_corrected_and_rejected(
    browser: Browser, tmp_path: Path, checkpoint: Path, some_images: Path
) -> None:
    folder = tmp_path / "a"
    image_folder(folder, 2)
    make_run(folder / "runs/one", checkpoint)
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/0.png") as page:
        wish = {"image": "0.png", "run": "runs/one", "threshold": 0.05}
        suggested = studio.send("/api/suggest", wish).json["objects"]
        page.get_by_label("Score from").fill("0.05")
        page.get_by_role("button", name="Suggest").click()
        page.get_by_role("button", name="Accept all").wait_for()
        count = page.locator(".object-list .suggested").count()
        assert count >= 3, "the detector of the test finds too little"
        page.get_by_role("heading", name=f"0 objects, {count} suggested").wait_for()
        page.get_by_role("button", name="Save", exact=True).click()
        wait_saved(page)
        assert saves(folder)[-1]["objects"] == []
        page.locator(".line").first.click()
        page.keyboard.press("x")
        page.keyboard.press("y")
        page.get_by_role("heading", name=f"1 object, {count - 2} suggested").wait_for()
        page.keyboard.press("Shift+ArrowDown")  # a suggestion that is moved is accepted
        page.get_by_role("heading", name="2 objects").wait_for()
        page.get_by_role("button", name="Reject all").or_(page.get_by_role("heading", name="2 objects")).first.click()
        page.keyboard.press("Control+s")
        page.get_by_text("Not saved").wait_for(state="detached")
        accepted, moved = (row["bbox"] for row in saves(folder)[-1]["objects"])  # the first was rejected
        as_suggested, other = ([x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (row["box"] for row in suggested[1:3]))
        assert accepted == pytest.approx(as_suggested, abs=0.02)
        assert moved[0] == pytest.approx(other[0], abs=0.02)
        assert other[1] < moved[1] <= other[1] + 10.02


def test_an_image_that_cannot_be_decoded_does_not_end_the_round(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set")
    (folder / "images/1.png").write_text("no image")
    with (
        studio_of(folder) as studio,
        page_of(browser, studio, "#/label/images%2F0.png", refusals=True) as page,
    ):
        page.get_by_role("heading", name="2 objects").wait_for()
        page.keyboard.press("n")
        page.get_by_role("heading", name="images/1.png").wait_for()
        page.get_by_text("cannot be decoded; replace or remove it").wait_for()
        page.get_by_role("link", name="Next image").click()
        page.get_by_role("heading", name="2.png").wait_for()


def test_the_labels_are_exported_in_another_format(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", names=("cell", "dust"))
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/images%2F0.png") as page:
        page.get_by_role("button", name="Export").click()
        page.get_by_label("Format").select_option("yolo")
        page.get_by_label("Folder").fill("as-yolo")
        page.get_by_role("button", name="Export", exact=True).click()
        page.get_by_text("studio_exports/as-yolo has 4 images with 8 objects.").wait_for()
        page.get_by_role("button", name="Close").click()
    assert len(list((folder / "studio_exports/as-yolo").rglob("*.txt"))) >= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    browser: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    folder = coco_folder(tmp_path / "set")
    with studio_of(folder) as studio, page_of(browser, studio, "", width, refusals=True, color_scheme=scheme) as page:
        ready_of = {"#/images": ".tile .objects", "#/label/images%2F0.png": ".line"}
        for hash, ready in (ready_of | dict.fromkeys(("#/train", "#/results", "#/try"), "main h1")).items():
            page.evaluate("hash => { location.hash = hash }", hash)
            page.locator(ready).first.wait_for()
            results = module.Axe().run(page)
            serious = [row for row in results.response["violations"] if row["impact"] in ("serious", "critical")]
            found = [(row["id"], node["html"][:120]) for row in serious for node in row["nodes"]]
            assert found == [], hash
            assert page.evaluate("document.documentElement.scrollWidth") <= width
