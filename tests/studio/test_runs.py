"""The page Train: runs of a project, proposals, and trainings in processes of their own."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.files import PROCESS
from detrkit.studio import create_app

from .projects import make_run, mark_running, wait_for

TINY = {"model": "detrkit_n", "weights": "none", "epochs": "200", "image_size": "64", "batch_size": "2"}


TOKEN = {"Authorization": "Bearer token"}


def client_of(folder: Path) -> TestClient:
    return TestClient(create_app(folder, "token"), base_url="http://localhost", headers=TOKEN)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path)


def runs_of(client: TestClient) -> dict[str, Any]:
    answer = client.get("/api/train/runs")
    assert answer.status_code == 200, answer.text
    return {run["run"]: run for run in answer.json()["runs"]}


def refused(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    sentence = answer.json()["detail"]
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_runs_are_found_wherever_they_lie_in_the_project(tmp_path: Path, client: TestClient) -> None:
    make_run(tmp_path / "runs/one")
    make_run(tmp_path / "older/deeper/two")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/config.yaml").write_text("a: 1")
    (tmp_path / ".hidden").mkdir()
    make_run(tmp_path / ".hidden/three")
    assert set(runs_of(client)) == {"runs/one", "older/deeper/two"}


def test_the_project_may_itself_be_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "demo")
    assert set(runs_of(client_of(tmp_path / "demo"))) == {"."}


def test_a_run_has_its_settings_and_the_curves_that_were_measured(tmp_path: Path, client: TestClient) -> None:
    make_run(tmp_path / "runs/one")
    run = runs_of(client)["runs/one"]
    assert run["settings"] == {"data": "data", "recipe": "fast", "model": "detrkit_n", "epochs": 4}
    assert run["curves"] == {
        "loss": [[1, 9.5], [2, 7.5], [3, 6.5]],
        "val_loss": [[1, 8.5], [3, 6]],
        "AP": [[1, 0.1]],
        "AP50": [[1, 0.2], [3, 0.4]],
    }
    assert (run["state"], run["running"], run["seconds"]) == ("stopped", False, 7.5)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "started": 1, "host": 2}', "\0", '{"pid": 1}'])
def test_broken_files_of_a_run_do_not_hide_the_others(tmp_path: Path, client: TestClient, content: str) -> None:
    broken = make_run(tmp_path / "runs/broken")
    make_run(tmp_path / "runs/whole")
    for name in (PROCESS, "config.yaml", "metrics.csv"):
        (broken / name).write_text(content)
    runs = runs_of(client)
    assert runs["runs/broken"]["state"] == "stopped"
    assert runs["runs/whole"]["curves"]["loss"]


def test_states_follow_from_process_log_and_report(tmp_path: Path, client: TestClient) -> None:
    run = make_run(tmp_path / "runs/one")
    mark_running(run, os.getpid(), epoch=2, epochs=4, batch=1, batches=5, loss=1.5, left="0:01:00")
    known = runs_of(client)["runs/one"]
    assert (known["state"], known["position"]["left"], known["position"]["loss"]) == ("training", "0:01:00", 1.5)
    mark_running(run, 2**22 + 1)
    assert runs_of(client)["runs/one"]["state"] == "stopped"
    (run / "train.log").write_text("detrkit train data\ndetrkit: error: expected this, found that\n")
    known = runs_of(client)["runs/one"]
    assert (known["state"], known["message"]) == ("failed", "expected this, found that")
    (run / "train.log").write_text("Best AP 0.5\n")
    (run / "report").mkdir()
    (run / "report/metrics.json").write_text("{}")
    assert runs_of(client)["runs/one"]["state"] == "finished"


def test_a_recycled_process_number_is_not_taken_for_the_run(tmp_path: Path, client: TestClient) -> None:
    run = make_run(tmp_path / "runs/one")
    mark_running(run, os.getpid(), started="another start")
    assert runs_of(client)["runs/one"]["state"] == "stopped"
    refused(client.post("/api/train/stop", json={"run": "runs/one"}), 422, "not running here")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../x"}, ("name of letters",)),
        ({"name": ""}, ("name of letters",)),
        ({"name": "one"}, ("already a run named 'one'",)),
        ({"data": "../elsewhere"}, ("inside of the project folder",)),
        ({"data": "/etc"}, ("inside of the project folder",)),
        ({"data": "nothing"}, ("found nothing at 'nothing'",)),
        ({"settings": {"epochs": "0"}}, ("epochs", "found 0")),
        ({"settings": {"epochs": "many"}}, ("epochs", "many")),
        ({"settings": {"output_dir": "/x"}}, ("expected settings among", "output_dir")),
        ({"settings": {"weights": "../../x.pth"}}, ("inside of the project folder",)),
        ({"settings": {"model": "detr_n"}}, ("detr_n",)),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, client: TestClient, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    make_run(tmp_path / "runs/one")
    (tmp_path / "data").mkdir()
    order = {"name": "two", "data": "data", "settings": {}} | change
    refused(client.post("/api/train/start", json=order), 422, *words)
    assert set(runs_of(client)) == {"runs/one"}


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    (tmp_path / "data").mkdir()
    monkeypatch.setattr("detrkit.studio.train_jobs.write_atomic", full)
    client, order = client_of(tmp_path), {"name": "one", "data": "data"}
    for _ in range(2):  # nothing is left of the first that would be in the way of the second
        refused(client.post("/api/train/start", json=order), 507, "No space left", "make room on the disk")
    assert not (tmp_path / "runs/one").exists()


@pytest.mark.parametrize("verb", ["stop", "resume"])
@pytest.mark.parametrize("run", ["runs/none", "..", "runs/../../x", "\0", "/etc"])
def test_only_runs_of_the_project_are_stopped_and_resumed(client: TestClient, verb: str, run: str) -> None:
    assert client.post(f"/api/train/{verb}", json={"run": run}).status_code == 422


def test_a_running_run_is_not_resumed(tmp_path: Path, client: TestClient) -> None:
    run = make_run(tmp_path / "runs/one")
    mark_running(run, os.getpid())
    refused(client.post("/api/train/resume", json={"run": "runs/one"}), 422, "still running")
    (run / PROCESS).unlink()
    refused(client.post("/api/train/resume", json={"run": "runs/one"}), 422, "last.ckpt", "start a new run")


def test_settings_are_proposed_with_reasons(tmp_path: Path, client: TestClient) -> None:
    make_demo_dataset(tmp_path / "data", images=20, size=64, difficulty=0.2, seed=0)
    (tmp_path / "notes").mkdir()
    places = client.get("/api/train/data").json()
    assert "data" in places["places"]
    assert places["first"] in (".", "data")
    answer = client.post("/api/train/proposal", json={"data": "data"})
    assert answer.status_code == 200, answer.text
    settings = {row["name"]: row for row in answer.json()["settings"]}
    assert settings["image_size"]["value"] in (64, 96)
    assert "own size is 64" in settings["image_size"]["reason"]
    assert "20 images make" in settings["batch_size"]["reason"]
    assert all(row["reason"] for row in settings.values())
    answer = client.post("/api/train/proposal", json={"data": "notes"})
    refused(answer, 422, "notes")


@pytest.mark.slow  # two starts of a training in processes of their own, which import everything
def test_a_training_is_stopped_resumed_and_found_again_by_another_studio(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "data", images=12, size=64, difficulty=0.2, seed=0)
    client = client_of(tmp_path)
    answer = client.post("/api/train/start", json={"name": "first run", "data": "data", "settings": TINY})
    assert answer.json() == {"run": "runs/first run"}
    assert runs_of(client)["runs/first run"]["state"] == "starting"
    wait_for(lambda: len(runs_of(client)["runs/first run"]["curves"].get("loss", [])) > 1)
    other = client_of(tmp_path)  # as after the studio was killed: it knows nothing but the folder
    known = runs_of(other)["runs/first run"]
    assert known["state"] in ("training", "evaluating")
    assert known["position"]["epochs"] == 200
    assert other.post("/api/train/stop", json={"run": "runs/first run"}).status_code == 200
    wait_for(lambda: not runs_of(other)["runs/first run"]["running"])
    known = runs_of(other)["runs/first run"]
    assert (known["state"], known["resumable"], known["message"]) == ("stopped", True, "")
    epochs = len(known["curves"]["loss"])
    assert other.post("/api/train/resume", json={"run": "runs/first run"}).status_code == 200
    wait_for(lambda: len(runs_of(other)["runs/first run"]["curves"]["loss"]) > epochs + 1)
    assert "--resume" in client.get("/api/train/log", params={"run": "runs/first run"}).json()["text"]
    other.post("/api/train/stop", json={"run": "runs/first run"})
    wait_for(lambda: not runs_of(other)["runs/first run"]["running"])


def test_a_training_outlives_the_studio_and_an_error_is_shown(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # no data set: the command ends with a sentence
    code = (
        "import sys; from pathlib import Path; from detrkit.studio.project import Project;"
        "from detrkit.studio.train_jobs import Jobs; Jobs(Project(sys.argv[1])).train('one', 'data', {})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    client = client_of(tmp_path)
    wait_for(lambda: not runs_of(client)["runs/one"]["running"])
    known = runs_of(client)["runs/one"]
    assert known["state"] == "failed"
    assert "data" in known["message"]
    assert "Traceback" not in client.get("/api/train/log", params={"run": "runs/one"}).json()["text"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_stop_sends_what_ctrl_c_does(tmp_path: Path, client: TestClient, sleeper: subprocess.Popen[bytes]) -> None:
    mark_running(make_run(tmp_path / "runs/one"), sleeper.pid)
    assert runs_of(client)["runs/one"]["running"]
    assert client.post("/api/train/stop", json={"run": "runs/one"}).status_code == 200
    assert sleeper.wait(20) == -signal.SIGINT
    assert not runs_of(client)["runs/one"]["running"]


def test_hundreds_of_epochs_and_runs_are_read_in_a_moment(tmp_path: Path, client: TestClient) -> None:
    head, row = "epoch,step,seconds,train/loss,val/AP", "{0},{0},1,0.5,0.5"
    for k in range(20):
        make_run(tmp_path / f"runs/{k}")
        lines = [head, *(row.format(epoch) for epoch in range(1, 301))]
        (tmp_path / f"runs/{k}/metrics.csv").write_text("\n".join(lines))
    start = time.process_time()
    assert len(runs_of(client)) == 20
    assert time.process_time() - start < 2
    assert json.dumps(runs_of(client)["runs/7"]["curves"]["AP"][-1]) == "[300.0, 0.5]"
