"""HTML reports in a browser, see `tests.browser`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from detrkit.visualization.html_report.page import Page as ReportPage
from detrkit.visualization.html_report.page import write_page
from detrkit.visualization.html_report.sections import (
    BoxOverlay,
    Chart,
    Charts,
    Column,
    Curve,
    Gallery,
    GalleryImage,
    Interval,
    Matrix,
    Notes,
    Settings,
    Summary,
    Table,
)
from tests.browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]

NAMES = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "x" * 80, "قطة", "cat 10", "cat 9")
SIZES = (390, 1280)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of section, and names that would do harm unescaped."""
    image = np.random.default_rng(0).integers(60, 200, (120, 200, 3), dtype=np.uint8)
    boxes = [
        BoxOverlay((20, 20, 80, 90), "object", "ground truth", dashed=True),
        BoxOverlay((30, 30, 90, 100), "<b>", "prediction", (230, 25, 75)),
    ]
    images = [
        GalleryImage(image, name, boxes, f"{k}.jpg", group=("missed", "wrong")[k % 2]) for k, name in enumerate(NAMES)
    ]
    rows = [[name, (5, 40, 30, 1200, None, 7)[k], 0.1 * k] for k, name in enumerate(NAMES)]
    steps = [1, 2, 3, 4]
    curves = [
        Curve("training", steps, [4, 3, 2, 1.5]),
        Curve("validation", steps, [5, 4, 3.5, 3]),
        Curve("hidden", steps, [9, 9, 9, 9], shown=False),
    ]
    sections = [
        Summary({"AP": Interval(0.412, 0.38, 0.441), "images": 1234, "absent": None}),
        Charts(
            "Curves",
            [Chart("loss", curves, "epoch"), Chart("rate", [Curve("lr", steps, [1, 0.1, 0.01, 1e-3])], log_y=True)],
        ),
        Table("Classes", [Column("class"), Column("objects"), Column("AP", bar=True)], rows, ["all", 1282, 0.25]),
        Matrix("Confusion", NAMES, np.arange(36).reshape(6, 6).tolist()),
        Gallery("Errors", images, total=99),
        Settings({"data": "/a/very/long/path" * 20, "lr": 1e-4}),
        Notes(["A sentence. " * 30]),
    ]
    folder = tmp_path_factory.mktemp("page")
    return write_page(folder / "a report #1.html", ReportPage(NAMES[0], sections, NAMES[1], "detrkit " + NAMES[2]))


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report, opened from disk; complaints and connections fail the test."""
    trouble: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: trouble.append(request.url) if not allowed(request.url, report) else None)
    page.goto(report.as_uri())
    yield page
    context.close()
    assert trouble == []


def allowed(url: str, report: Path) -> bool:
    return url == report.as_uri() or url.startswith("data:image/jpeg")


def column(page: Page, number: int) -> list[str]:
    return [text.strip() for text in page.locator(f".sortable tbody td:nth-child({number})").all_inner_texts()]


def test_a_report_opens_from_disk_and_names_are_text(page: Page) -> None:
    assert page.title() == NAMES[0]
    assert page.locator("h1").inner_text() == NAMES[0]
    assert column(page, 1) == list(NAMES)
    assert page.locator("main section").count() == 8
    assert page.evaluate("[...document.images].length") == 0  # that of the name is none
    embedded = page.locator("svg image").all()
    assert len(embedded) == len(NAMES)
    assert page.locator("img, iframe, object, link, script[src]").count() == 0


def test_scripts_that_are_not_of_the_page_do_not_run(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.harmed = true";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src='https://example.invalid/x.png'>");
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.harmed") is None
    assert any("script" in text and "Content Security Policy" in text for text in refused)
    assert any("image" in text and "Content Security Policy" in text for text in refused)
    page.close()


def test_a_click_or_a_key_on_a_head_sorts_a_table(page: Page) -> None:
    head = page.locator(".sortable thead th")
    head.nth(1).locator("button").click()
    assert column(page, 2) == ["1,200", "40", "30", "7", "5", "–"]
    assert head.nth(1).get_attribute("aria-sort") == "descending"
    head.nth(1).locator("button").press("Enter")
    assert column(page, 2) == ["5", "7", "30", "40", "1,200", "–"]  # what is absent stays last
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    head.nth(0).locator("button").click()
    names = column(page, 1)
    assert names.index("cat 9") < names.index("cat 10")
    assert head.nth(1).get_attribute("aria-sort") is None
    assert page.locator(".sortable tfoot").inner_text().split() == ["all", "1,282", "0.250"]


def test_boxes_labels_and_groups_are_shown_and_hidden(page: Page) -> None:
    ground_truth, prediction = page.locator(".images .layer0 .line").first, page.locator(".images .layer1 .line").first
    label = page.locator(".images .layer1 text").first
    assert ground_truth.is_visible()
    assert prediction.is_visible()
    page.get_by_label("ground truth").uncheck()
    assert not ground_truth.is_visible()
    assert prediction.is_visible()
    page.get_by_label("labels").uncheck()
    assert not label.is_visible()
    page.get_by_label("ground truth").check()
    assert ground_truth.is_visible()
    page.get_by_label("Show images of").select_option(label="missed (3)")
    assert [figure.is_visible() for figure in page.locator(".images figure").all()] == [True, False] * 3
    page.get_by_label("prediction").uncheck()
    page.locator(".enlarge").first.click()
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert not dialog.locator(".layer1 .line").is_visible()  # as in the gallery
    page.keyboard.press("ArrowRight")
    assert NAMES[2] in dialog.locator("p").inner_text()  # the next that is shown
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_values_of_curves_are_shown_under_the_pointer_and_by_keys(page: Page) -> None:
    plot = page.locator(".plot").first
    readout = plot.locator(".readout")
    assert not readout.is_visible()
    box = plot.bounding_box()
    assert box is not None
    plot.hover(position={"x": box["width"] - 12, "y": 60})
    assert readout.inner_text().split() == ["epoch", "4", "training", "1.5", "validation", "3"]
    inside = readout.bounding_box()
    assert inside is not None
    assert box["x"] <= inside["x"]
    assert inside["x"] + inside["width"] <= box["x"] + box["width"]
    assert inside["height"] < 90  # three lines
    page.mouse.move(0, 0)
    assert not readout.is_visible()
    plot.focus()
    plot.press("ArrowRight")
    plot.press("ArrowRight")
    assert readout.inner_text().split() == ["epoch", "2", "training", "3", "validation", "4"]
    plot.press("Home")
    page.get_by_label("validation").uncheck()
    page.get_by_label("hidden").check()
    plot.focus()
    plot.press("End")
    assert readout.inner_text().split() == ["epoch", "4", "training", "1.5", "hidden", "9"]
    assert plot.locator("path").count() == 2


def test_a_logarithmic_axis_has_powers_of_ten(page: Page) -> None:
    labels = page.locator(".plot").nth(1).locator("text").all_text_contents()
    assert {"1", "0.1", "0.01", "0.001"} <= set(labels)


@pytest.mark.parametrize("width", SIZES)
def test_the_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll("main section > *")]
            .filter((each) => each.getBoundingClientRect().right > innerWidth).map((each) => each.className)"""
    )
    assert too_wide == []


CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const light = (name) => {
        canvas.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
            .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
        const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
    };
    const result = {};
    for (const on of ["--page", "--raised"]) {
        for (const name of ["--text", "--soft", "--accent", ...Array.from({ length: 8 }, (_, k) => `--curve${k}`)]) {
            result[`${name} on ${on}`] = ratio(name, on);
        }
    }
    return result;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert {pair: ratio for pair, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5} == {}


def test_every_control_is_reached_by_the_keyboard_and_has_a_name(page: Page) -> None:
    controls = page.locator("a, button, input, select, .plot, .scroll, pre").count()
    hidden = page.locator("dialog button").count()
    reached = set()
    for _ in range(controls + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached - {-1, page.evaluate("[...document.querySelectorAll('*')].indexOf(document.body)")}) == (
        controls - hidden
    )
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, .plot, .scroll, dialog")].filter((each) =>
            !(each.innerText?.trim() || each.getAttribute("aria-label") || each.getAttribute("aria-labelledby")
              || each.labels?.length)).length"""
    )
    assert nameless == 0
    assert page.locator("header, nav, main, footer").count() == 4
