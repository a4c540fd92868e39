"""Packed data behind a local HTTP server with ranges, which is slow and fails on purpose."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detrkit import cli
from detrkit.data.formats.detect import open_dataset
from detrkit.data.shards import packed_index, storage
from detrkit.data.shards.packed_index import read_file
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ShardError
from detrkit.training import train
from tests.training.helpers import assert_same_run

from .test_packed_records import assert_same_items

pytestmark = pytest.mark.timeout(200)


class Server(ThreadingHTTPServer):
    """Answers requests for files of a folder, and does with some what a test asks for."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: list[str] = []
        """What happens to the next requests for shards: error, drop, short, wrong, slow, whole or ok."""
        self.always = "ok"
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data"

    def handle_error(self, *args: object) -> None:
        """Clients that went away are a part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/data/")
        path = self.server.root / name
        if not path.is_file():
            self.send_error(404)
            return
        with self.server.lock:
            self.server.requests[name] += 1
            fault = "ok"
            if name.endswith(".tar"):
                fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        data, span = path.read_bytes(), re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        ranged = span is not None and fault != "whole"
        if ranged and span:
            data = data[int(span[1]) : int(span[2]) + 1]
        if fault == "error":
            self.send_error(503)
            return
        if fault == "slow":
            time.sleep(1.5)
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault == "short":
            data = data[: len(data) // 2]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "drop":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)


@pytest.fixture
def server(packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(packed_index, "_opened", {})
    with Server(packed) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.shutdown()


def test_the_items_of_an_address_are_those_of_the_folder(server: Server, packed: Path) -> None:
    actual, expected = (check_dataset(open_dataset(data)) for data in (server.address, packed))
    assert actual.statistics == expected.statistics
    for name in ("train", "val"):
        assert_same_items(actual.splits[name], expected.splits[name])


def test_training_at_an_address_that_fails_at_times_is_training_on_the_files(
    server: Server, loose: Path, config
) -> None:
    server.faults = [fault for each in ("error", "drop", "wrong", "short") for fault in (each, "ok", "ok")] * 3
    runs = [
        train(config(data, name, num_workers=workers, augmentation="detr")).run_dir
        for data, name, workers in ((loose, "loose", 0), (server.address, "address", 2))
    ]
    assert_same_run(runs[1], runs[0])
    assert len(server.faults) < 36


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("error", r"found ClientResponseError: 503.* in 5 attempts over \d+ s; look at the server and the network"),
        ("wrong", r"found bytes with another checksum: the file was changed or damaged in 5 attempts over"),
        ("short", r"found \d+ bytes there: the file is shorter than when it was packed in 5 attempts over"),
        ("whole", r"found \d+ bytes: the server does not answer requests for ranges in 5 attempts over"),
        ("drop", r"found Client\w+: .* in 5 attempts over"),
        ("slow", r"found no answer within 0 s in 5 attempts over"),
    ],
)
def test_a_server_that_keeps_failing_ends_in_one_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, sentence: str
) -> None:
    image = check_dataset(open_dataset(server.address)).splits["train"].images[0]
    server.always = fault
    if fault == "slow":
        monkeypatch.setattr(storage, "TIMEOUT", 0.2)
    with pytest.raises(
        ShardError, match=r"expected \d+ bytes at \d+ of http://127.0.0.1:\d+/data/train-000000.tar, " + sentence
    ):
        read_file(image.path)
    assert server.requests["train-000000.tar"] == storage.ATTEMPTS


def test_a_slow_server_is_waited_for(server: Server, packed: Path) -> None:
    image = check_dataset(open_dataset(server.address)).splits["train"].images[0]
    server.faults = ["slow"]
    assert read_file(image.path) == read_file(packed / image.path.parent.name / image.path.name)
    assert server.requests["train-000000.tar"] == 1


def test_a_failing_server_ends_a_training_with_a_sentence(server: Server, config, tmp_path: Path, capsys) -> None:
    server.always = "error"
    run = config(server.address, "run", num_workers=1)
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    assert cli.main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("detrkit: error: expected ")
    assert "in 5 attempts" in error


def test_the_index_is_copied_once_and_compared_with_its_checksum(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_dataset(server.address)
    assert server.requests["index/train.box.npy"] == 1
    open_dataset(f"{server.address}/")
    assert server.requests["index/train.box.npy"] == 1
    copied = next((tmp_path / "cache").rglob("train.box.npy"))
    content = bytearray(copied.read_bytes())
    content[-1] ^= 1
    copied.write_bytes(content)
    with pytest.raises(ShardError, match=r"train.box.npy as it was packed, found another checksum"):
        open_dataset(server.address)


def test_an_address_without_packed_data_is_named(server: Server) -> None:
    with pytest.raises(
        ShardError, match=r"expected http://.*/nothing/pack.json, found no such file; look at the server"
    ):
        open_dataset(server.address.replace("/data", "/nothing"))
