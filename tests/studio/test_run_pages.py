"""The pages Train, Results and Try in a browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.inference.conftest import checkpoint, some_images
from tests.serving.conftest import png

from .conftest import HARMFUL, StudioClient, page_of, studio_of, wait_until
from .projects import make_project, mark_running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["checkpoint", "some_images"]

PAGES = ("#/train", "#/train/new", "#/results", "#/results/runs%2Fone%2Freport?with=runs%2Ftwo%2Freport", "#/try")


@pytest.fixture
def project(tmp_path: Path, checkpoint: Path) -> Path:
    """A project with a run that trains and one that was stopped, each with a report; a class has a harmful name."""
    folder = make_project(tmp_path / "project", checkpoint)
    mark_running(folder / "runs/one", os.getpid(), epoch=2, epochs=4, batch=1, batches=2, loss=1.25, left="0:01:00")
    mark_running(folder / "runs/two", 2**22 + 1)
    return folder


@pytest.fixture
def studio(project: Path) -> Iterator[StudioClient]:
    with studio_of(project) as studio:
        yield studio


def number(page: Page, selector: str) -> int:
    return page.locator(selector).count()


def test_runs_stand_side_by_side_and_show_how_far_they_are(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/train") as page:
        one = page.locator(".runs li", has_text="one")
        one.get_by_text("epoch 3 of 4, batch 1 of 2").wait_for()
        assert "loss 1.250" in one.inner_text()
        assert "0:01:00 left" in one.inner_text()
        assert one.locator("progress").evaluate("(bar) => bar.position") == pytest.approx(2.5 / 4)
        assert one.get_by_role("button", name="Stop").is_visible()
        two = page.locator(".runs li", has_text="two")
        assert not two.get_by_role("button", name="Stop").is_visible()
        assert two.get_by_role("button", name="Go on").is_visible()
        assert number(page, ".plot polyline") == 4  # training and validation of each
        two.get_by_role("checkbox").uncheck()
        assert number(page, ".plot polyline") == 2
        page.locator(".plot").focus()
        page.keyboard.press("End")
        assert page.locator(".readout").inner_text() == "epoch 3: one training 6.500, one validation 6.000"
        page.get_by_label("Show").select_option("AP50")
        assert number(page, ".plot polyline") == 1


def test_what_a_run_writes_is_shown_while_it_trains(browser: Browser, studio: StudioClient, project: Path) -> None:
    with page_of(browser, studio, "#/train") as page:
        page.get_by_text("epoch 3 of 4, batch 1 of 2").wait_for()
        page.get_by_role("button", name="Stop").focus()
        record = json.loads((project / "runs/one/process.json").read_text())
        (project / "runs/one/process.json").write_text(json.dumps(record | {"batch": 2, "loss": 0.5}))
        page.get_by_text("batch 2 of 2 · loss 0.500").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "Stop"


def test_a_cell_of_the_confusion_matrix_opens_its_images(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/results") as page:
        page.get_by_role("link", name="one").click()
        cell = page.get_by_role("button", name=f"{HARMFUL} as nut: 1")
        cell.click()
        assert page.locator(".gallery figcaption").all_inner_texts() == ["2.png"]
        assert page.get_by_role("heading", name=f"{HARMFUL}, taken for nut: 1 image").is_visible()
        assert page.locator(".gallery .mistake text").all_text_contents() == [HARMFUL, "nut 0.80"]
        wait_until(page, "[...document.querySelectorAll('.gallery img')].every((image) => image.naturalWidth)")
        page.reload()
        page.get_by_role("heading", name="taken for nut: 1 image").wait_for()
        assert page.locator(".gallery figcaption").all_inner_texts() == ["2.png"]
        page.get_by_role("button", name="missed (1)").press("Enter")
        assert page.locator(".gallery figcaption").all_inner_texts() == ["3.png"]
        page.go_back()
        page.get_by_role("heading", name="Results").wait_for()


def test_an_image_with_a_mistake_opens_its_labels_and_the_next_ones(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/results/runs%2Fone%2Freport") as page:
        page.get_by_role("button", name="missed (1)").click()
        page.locator(".gallery").get_by_role("link", name="3.png").click()
        page.get_by_role("heading", name="3.png").wait_for()
        page.get_by_text("1 of 1").wait_for()
        page.go_back()
        page.get_by_role("heading", name="missed: 1 image").wait_for()


def test_two_models_stand_side_by_side_on_one_image(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/results/runs%2Fone%2Freport") as page:
        page.get_by_label("Compare with").select_option("runs/two/report")
        page.get_by_role("heading", name="one beside two").wait_for()
        assert page.locator("table").first.locator("thead th").all_inner_texts()[1::2] == ["one", "two"]
        captions = page.locator(".pair figcaption").all_inner_texts()
        assert captions == ["ground truth", "one: 1 error", "two: 3 errors"]
        first = page.locator("section label", has_text="Image").locator("option").first
        assert first.text_content() == "1.png (1 and 3 errors)"
        page.reload()
        page.get_by_role("heading", name="one beside two").wait_for()
        page.get_by_label("Compare with").select_option("")
        page.get_by_role("heading", name="one beside two").wait_for(state="detached")


def test_threshold_and_classes_change_what_is_drawn_without_a_request(
    browser: Browser, studio: StudioClient, project: Path
) -> None:
    with page_of(browser, studio, "#/try?run=runs%2Fone") as page:
        page.locator("#try-files").set_input_files([str(project / "data/1.png"), str(project / "data/2.png")])
        page.get_by_text("detections are shown").wait_for(timeout=60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        slider = page.get_by_label("Lowest score")
        slider.fill("0.05")
        most = number(page, ".over .frame")
        assert most > 0
        slider.press("End")
        assert number(page, ".over .frame") == 0
        slider.fill("0.05")
        boxes = page.locator(".classes input").all()
        for box in boxes:
            box.uncheck()
        assert number(page, ".over .frame") == 0
        boxes[0].check()
        assert number(page, ".over .frame") <= most
        for box in boxes:
            box.check()
        assert number(page, ".over .frame") == most
        assert asked == []
        page.get_by_role("button", name="Where the model looked").first.click()
        wait_until(page, "document.querySelector('.attention img')?.naturalWidth > 0")
        page.get_by_role("button", name="2.png").click()
        page.get_by_text("detections are shown").wait_for()
        assert number(page, ".attention img") == 0
        assert page.locator(".stage img").get_attribute("alt") == "2.png"


def test_files_that_cannot_be_used_are_refused_in_a_sentence(
    browser: Browser, studio: StudioClient, tmp_path: Path
) -> None:
    (tmp_path / "huge.png").write_bytes(png(20_000, 10_000))
    (tmp_path / f"{HARMFUL[:20]}.png").write_bytes(b"GIF, but none")
    with page_of(browser, studio, "#/try?run=runs%2Fone", refusals=True) as page:
        page.locator("#try-files").set_input_files([str(tmp_path / "huge.png")])
        page.get_by_text("at most 100 million pixels in huge.png").wait_for(timeout=60_000)
        page.locator("#try-files").set_input_files([str(tmp_path / f"{HARMFUL[:20]}.png")])
        page.get_by_text(f"in {HARMFUL[:20]}.png, found one that begins with").wait_for()


RECORD = """() => new Promise((resolve) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [160, 120];
    const pen = canvas.getContext("2d");
    let k = 0;
    const timer = setInterval(() => { pen.fillStyle = `hsl(${(k += 20)} 80% 50%)`; pen.fillRect(0, 0, 160, 120); }, 40);
    const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm" });
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
        clearInterval(timer);
        const files = new DataTransfer();
        files.items.add(new File(parts, "moving.webm", { type: "video/webm" }));
        document.querySelector(".try").dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
        resolve();
    };
    recorder.start();
    setTimeout(() => recorder.stop(), 1500);
})"""


def test_a_dropped_video_is_detected_in_frame_by_frame(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/try?run=runs%2Fone") as page:
        page.get_by_label("Lowest score").fill("0.05")
        page.evaluate(RECORD)
        page.get_by_text("detections are shown").wait_for(timeout=60_000)
        with page.expect_response("**/try/predict**"):
            pass
        assert page.locator("video").is_visible()
        page.get_by_role("link", name="Train").click()
        page.get_by_role("heading", name="Train").wait_for()


def test_the_camera_is_used_until_the_page_is_left(browser: Browser, studio: StudioClient) -> None:
    with page_of(browser, studio, "#/try?run=runs%2Fone", permissions=["camera"]) as page:
        page.get_by_role("button", name="Camera").click()
        page.get_by_text("detections are shown").wait_for(timeout=60_000)
        with page.expect_response("**/try/predict**"):
            pass
        track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
        assert track.evaluate("(track) => track.readyState") == "live"
        page.get_by_role("link", name="Results").click()
        page.get_by_role("heading", name="Results").wait_for()
        assert track.evaluate("(track) => track.readyState") == "ended"


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways_and_every_control_has_a_name(
    browser: Browser, studio: StudioClient, width: int
) -> None:
    for hash in PAGES:
        with page_of(browser, studio, hash, width, refusals=True) as page:  # there are no labels to train on
            page.locator("h1").wait_for()
            page.wait_for_timeout(200)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, hash
            assert page.evaluate("document.querySelector('main').scrollWidth") <= width, hash
            nameless = page.evaluate(
                """() => [...document.querySelectorAll("button, input, select, a, [tabindex='0'], progress, img")]
                    .filter((each) => !(each.innerText?.trim() || each.getAttribute("aria-label") || each.alt
                        || each.labels?.length || !each.checkVisibility())).map((each) => each.outerHTML)"""
            )
            assert nameless == [], hash


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
    const lines = Array.from({ length: 8 }, (_, k) => `--c${k}`);
    const names = ["--text", "--soft", "--accent", "--bad", "--good", ...lines];
    return Object.fromEntries(names.map((name) => [name, Math.min(ratio(name, "--page"), ratio(name, "--raised"))]));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(browser: Browser, studio: StudioClient, scheme: str) -> None:
    with page_of(browser, studio, "#/train", color_scheme=scheme) as page:
        page.locator("h1").wait_for()
        assert {name: ratio for name, ratio in page.evaluate(CONTRAST).items() if ratio < 4.5} == {}
