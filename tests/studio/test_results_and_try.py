"""The pages Results and Try: reports, their images, and detectors on what is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from detrkit.studio import create_app
from tests.inference.conftest import checkpoint, mask_checkpoint, some_images
from tests.serving.conftest import encode, noise, png

from .conftest import studio_of
from .projects import make_project, make_run, wait_for

__all__ = ["checkpoint", "mask_checkpoint", "some_images"]

JPEG = {"Content-Type": "image/png"}


@pytest.fixture
def project(tmp_path: Path, checkpoint: Path) -> Path:
    """A project with two runs, each with a report on three images."""
    return make_project(tmp_path / "project", checkpoint)


@pytest.fixture
def client(project: Path) -> TestClient:
    headers = {"Authorization": "Bearer token"}
    return TestClient(create_app(project, "token"), base_url="http://localhost", headers=headers)


def sentence_of(answer: Any, status: int = 422) -> str:
    assert answer.status_code == status, answer.text
    sentence = str(answer.json()["detail"])
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def test_reports_are_listed_with_their_headline(client: TestClient) -> None:
    reports = {row["report"]: row for row in client.get("/api/results/reports").json()["reports"]}
    assert set(reports) == {"runs/one/report", "runs/two/report"}
    one = reports["runs/one/report"]
    assert (one["name"], one["state"], one["images"], one["pairs"]) == ("one", "finished", 3, True)
    assert one["AP"] > reports["runs/two/report"]["AP"]


def test_a_report_has_numbers_curves_and_confusions(client: TestClient) -> None:
    report = client.get("/api/results/report", params={"report": "runs/one/report"}).json()
    assert report["run"]["name"] == "one"
    assert report["confusion_matrix"]["rows_gt_columns_prediction"] == [[2, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert report["mistakes"] == {"missed": 1, "wrong class": 1, "false alarm": 1}
    assert report["pr_curves"]["recall"][-1] == 1
    assert "intervals" in report


def test_the_images_of_a_cell_are_sent(client: TestClient, project: Path) -> None:
    pairs = client.get("/api/results/pairs", params={"report": "runs/one/report"}).json()
    by_id = {image["id"]: image for image in pairs["images"]}
    assert by_id[2]["detections"][0][0] == 1  # nut, for what is none
    assert by_id[2]["objects"][by_id[2]["detections"][0][-1]][0] == 0
    answer = client.get("/api/results/image", params={"report": "runs/one/report", "image": 2})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:3] == b"\xff\xd8\xff"


def test_images_outside_of_the_project_are_not_sent(client: TestClient, project: Path) -> None:
    path = project / "runs/one/report/images.json"
    content = json.loads(path.read_text())
    secret = project.parent / "secret.png"
    secret.write_bytes(encode(noise()))
    (project / "link.png").symlink_to(secret)
    for name in ("../../../../secret.png", str(secret), "../../../link.png"):
        content["images"][0]["path"] = name
        path.write_text(json.dumps(content))
        answer = client.get("/api/results/image", params={"report": "runs/one/report", "image": 1})
        assert "outside of the project" in sentence_of(answer)


@pytest.mark.parametrize("report", ["", "..", "runs/none/report", "/etc", "runs/one", "\0"])
@pytest.mark.parametrize("what", ["report", "pairs", "image"])
def test_what_is_no_report_is_refused_in_a_sentence(client: TestClient, what: str, report: str) -> None:
    sentence_of(client.get(f"/api/results/{what}", params={"report": report, "image": 1}))


def test_a_broken_or_older_report_is_explained(client: TestClient, project: Path) -> None:
    (project / "runs/one/report/images.json").unlink()
    sentence = sentence_of(client.get("/api/results/pairs", params={"report": "runs/one/report"}))
    assert "evaluate the run again" in sentence
    (project / "runs/two/report/metrics.json").write_text("{")
    assert "metrics.json" in sentence_of(client.get("/api/results/report", params={"report": "runs/two/report"}))
    assert len(client.get("/api/results/reports").json()["reports"]) == 2


def test_an_evaluation_names_run_and_data_of_the_project(client: TestClient) -> None:
    for order in ({"run": "..", "data": "data"}, {"run": "runs/one", "data": ".."}, {"run": "runs/one", "data": "no"}):
        sentence_of(client.post("/api/results/evaluate", json=order))


def test_a_dropped_image_gets_detections_down_to_low_scores(client: TestClient, project: Path) -> None:
    assert [row["run"] for row in client.get("/api/try/detectors").json()["detectors"]] == ["runs/two", "runs/one"]
    body = (project / "data/1.png").read_bytes()
    answer = client.post("/api/try/predict", params={"run": "runs/one", "name": "<b>.png"}, content=body, headers=JPEG)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["name"], result["width"], result["height"]) == ("<b>.png", 80, 60)
    assert result["detections"]
    assert {row["class_name"] for row in result["detections"]} <= set(result["classes"])
    first = result["detections"][0]
    box = dict(zip(("x1", "y1", "x2", "y2"), first["box"], strict=True))
    params = {"run": "runs/one", "class_id": first["class_id"], **box}
    looked = client.post("/api/try/attention", params=params, content=body, headers=JPEG)
    assert looked.status_code == 200, looked.text
    assert looked.content[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 415, "empty file"),
        (b"MZ\x90", 415, "begins with"),
        (encode(noise())[:200], 422, "cannot be decoded"),
        (png(20_000, 10_000), 413, "million pixels"),
    ],
)
def test_a_dropped_file_that_is_no_usable_image_is_refused(
    client: TestClient, body: bytes, status: int, words: str
) -> None:
    answer = client.post("/api/try/predict", params={"run": "runs/one"}, content=body, headers=JPEG)
    assert words in sentence_of(answer, status)


def test_masks_are_sent_as_outlines(project: Path, mask_checkpoint: Path, client: TestClient) -> None:
    make_run(project / "runs/masks", mask_checkpoint)
    body = (project / "data/1.png").read_bytes()
    answer = client.post("/api/try/predict", params={"run": "runs/masks"}, content=body, headers=JPEG)
    assert any(row.get("polygons") for row in answer.json()["detections"])


@pytest.mark.parametrize("run", ["", "..", "runs/none", "/etc/passwd"])
def test_only_detectors_of_the_project_are_run(client: TestClient, run: str) -> None:
    sentence_of(client.post("/api/try/predict", params={"run": run}, content=encode(noise()), headers=JPEG))


def test_a_run_as_project_shows_the_images_of_its_data_and_none_of_its_results(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    for name in (
        "data/images/1.png",
        "data/panoptic_val/1.png",
        "report/heldout.jpg",
        "report-x-val/errors/missed.jpg",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(encode(noise()))
    (run / "data/panoptic_val.json").write_text("{}")
    with studio_of(run) as studio:
        listed = wait_for(lambda: (answer := studio.get("/api/images").json)["ready"] and answer)
        assert [row[0] for row in listed["images"]] == ["data/images/1.png"]
        assert [row["run"] for row in studio.get("/api/train/runs").json["runs"]] == ["."]
