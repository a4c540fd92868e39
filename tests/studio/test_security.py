"""Nobody but the person who has the address of the studio gets anything of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detrkit.commands.studio import studio as studio_command
from detrkit.config.serving import StudioConfig
from detrkit.errors import ConfigError, DataError
from detrkit.studio.project import Project

from .conftest import HARMFUL, TOKEN, Client, StudioClient, image_folder, page_of, studio_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATHS = ("/", "/api/project", "/api/images", "/static/main.js")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioClient]:
    with studio_of(image_folder(tmp_path_factory.mktemp("studio") / "my project")) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_every_address_needs_the_token(studio: StudioClient, path: str) -> None:
    client = Client(studio.port)
    for headers in ({}, {"Authorization": "Bearer t-2"}, {"Cookie": f"detrkit_studio_{studio.port}=x"}):
        answer = client.get(path, **headers)
        assert answer.status == 401
        assert "open the address that it printed" in answer.sentence
    assert client.get(f"{path}?token=t-2").status == 401
    assert studio.get(path).status == 200


def test_the_address_with_the_token_sets_a_cookie_that_other_sites_cannot_use(studio: StudioClient) -> None:
    client = Client(studio.port)
    answer = client.get(f"/?token={TOKEN}")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/api/project", Cookie=cookie.partition(";")[0]).json["name"] == "my project"
    assert client.get(f"/api/project?token={TOKEN}").status == 401  # only the page itself, whose script removes it


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "localhost.evil.example", "x@localhost", "a b"]
)
def test_a_name_that_is_not_of_this_machine_is_refused(studio: StudioClient, host: str) -> None:
    assert studio.get("/api/project", Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:5", "LOCALHOST"])
def test_names_of_this_machine_are_accepted_with_any_port_as_of_a_tunnel(studio: StudioClient, host: str) -> None:
    assert studio.get("/api/project", Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_a_request_of_another_page_is_refused(studio: StudioClient, origin: str) -> None:
    answer = studio.get("/api/project", Origin=origin)
    assert answer.status == 403
    assert "the studio's own page" in answer.sentence


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_a_body_that_a_form_can_send_is_refused(studio: StudioClient, kind: str) -> None:
    assert studio.send("/api/project", {}, **{"Content-Type": kind}).status == 415


def test_every_answer_says_that_the_page_runs_nothing_but_its_own_files(studio: StudioClient) -> None:
    for answer in (*map(studio.get, PATHS), Client(studio.port).get("/"), studio.get("/nothing")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/static/../project.py", "/static/%2e%2e/project.py", "/static//etc/passwd"])
def test_no_file_beside_those_of_the_page_is_sent(studio: StudioClient, path: str) -> None:
    assert studio.get(path).status == 404


def test_no_path_leads_out_of_the_project(tmp_path: Path) -> None:
    project = Project(image_folder(tmp_path / "project"))
    (tmp_path / "secret.txt").write_text("x")
    (project.root / "link.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("../secret.txt", "link.txt", str(tmp_path / "secret.txt"), "a\0b", "a/../../secret.txt"):
        with pytest.raises(DataError, match="inside of the project folder"):
            project.inside(name)
    assert project.inside("a/../0.png") == project.root / "0.png"


def test_no_script_makes_html_of_text() -> None:
    import detrkit.studio

    for path in (Path(detrkit.studio.__file__).parent / "static").glob("*.*"):
        text = path.read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            "http://www.google",
        ):
            assert word not in text, (path.name, word)


def test_the_files_of_the_browser_stay_small_enough_to_read() -> None:
    import detrkit.studio

    files = [*(Path(detrkit.studio.__file__).parent / "static").glob("*.[jc]s*")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 4000
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 450


def test_the_page_shows_the_project_and_hides_the_token(browser: Browser, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / HARMFUL)
    (folder / "0.png").rename(folder / f"{HARMFUL}.png")
    with studio_of(folder) as studio, page_of(browser, studio) as page:
        page.get_by_text(HARMFUL, exact=True).wait_for()
        assert TOKEN not in page.url
        assert page.get_by_role("link", name="Images").get_attribute("aria-current") == "page"


def test_the_command_prints_the_address_and_ends_with_a_signal(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "project")
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", "studio", str(folder), "--port", "0", "--no_browser"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline().strip() for _ in range(2)]
        assert lines[0] == f"Studio of {folder}; Ctrl-C ends it"
        url = lines[1].removeprefix("Open ")
        port, _, token = url.removeprefix("http://127.0.0.1:").partition("/?token=")
        assert len(token) > 40
        assert Client(int(port)).get(f"/?token={token}").status == 200
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_a_folder_that_is_none_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"expected a folder with images or a data set, found (a file|nothing) at"):
        studio_command(StudioConfig(folder=str(tmp_path / name), no_browser=True))
