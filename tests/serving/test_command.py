"""The command: how it starts, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detrkit.cli import COMMANDS, parse
from detrkit.commands.serve import name_weights, serve
from detrkit.config.serving import ServeConfig
from detrkit.errors import ConfigError, DetrkitError, DetrkitWarning, WeightsError
from detrkit.serving.server import bind, is_loopback, read_key, url_of

from .conftest import Client


@contextmanager
def command(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """A process of `detrkit serve` that listens: itself, its port, and what it has printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", "serve", *arguments, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | variables,
    )
    assert process.stdout
    lines: list[str] = []
    try:
        while not (lines and lines[-1].startswith("Listening at")):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip())
        yield process, int(re.findall(r"127\.0\.0\.1:(\d+)", lines[-1])[0]), lines
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_signal_lets_what_was_accepted_finish_and_refuses_the_rest(checkpoint: Path, photo: bytes) -> None:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer k-1\r\nContent-Length: {len(photo)}\r\n\r\n"
    )
    with command(f"mine={checkpoint}", DETRKIT_SERVE_KEY="k-1") as (process, port, lines):
        assert "Serving mine: 3 classes, 64 pixels, on cpu" in lines
        assert Client(port).predict(photo).status == 401
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + photo[:50])
            assert Client(port).get("/healthz").status == 200  # so the half request has been read
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            connection.sendall(photo[50:])
            connection.settimeout(20)
            answer = b""
            while part := connection.recv(10_000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"model":"mine"' in answer
        assert process.wait(20) == 0
        assert process.stdout
        assert process.stdout.read().splitlines()[-1] == "Stopped; everything that was accepted is answered"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights": ["nothing.ckpt"]}, "nothing.ckpt"),
        ({"weights": ["a=x.ckpt", "a=y.ckpt"]}, "'a' for x.ckpt and for y.ckpt"),
        ({"weights": ["runs/a/best.ckpt", "other/a/last.ckpt"]}, "give one as NAME=WEIGHTS"),
        ({"weights": ["a="]}, "expected weights, or NAME=WEIGHTS"),
        ({"host": "no.such.host.invalid"}, "expected an address of this machine for --host"),
        ({"host": "192.0.2.1"}, "cannot listen at 192.0.2.1"),
        ({"key_file": "no-key"}, "no-key, which cannot be read"),
        ({"key_file": "empty"}, "found none"),
        ({"key_file": "two"}, "expected a key of one word"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    settings: dict, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n", encoding="utf-8")
    Path("two").write_text("a key", encoding="utf-8")
    with pytest.raises(DetrkitError) as caught:
        serve(ServeConfig(**{"weights": ["nothing.ckpt"], "port": 0, **settings}))
    assert isinstance(caught.value, ConfigError | WeightsError)
    assert sentence in caught.value.message


def test_a_taken_port_is_a_sentence() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1 port {port}"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    "flag", ["--port=70000", "--batch_size=0", "--deadline=0", "--max_upload_mb=-1", "--tile_overlap=-1"]
)
def test_settings_have_ranges(flag: str) -> None:
    with pytest.raises(ConfigError):
        parse("serve", COMMANDS["serve"], ["a.ckpt", flag])


def test_other_machines_without_a_key_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETRKIT_SERVE_KEY", raising=False)
    config = ServeConfig(weights=["nothing.ckpt"], host="0.0.0.0", port=0)
    with pytest.raises(WeightsError), pytest.warns(DetrkitWarning, match="there is no key"):
        serve(config)
    monkeypatch.setenv("DETRKIT_SERVE_KEY", "k")
    with pytest.raises(WeightsError):
        serve(config)


def test_addresses_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bind("localhost", 0) as bound:
        assert is_loopback(bound)
        assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):\d+", url_of(bound))
    monkeypatch.setenv("DETRKIT_SERVE_KEY", "from-variable")
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    assert read_key("") == "from-variable"
    assert read_key(str(tmp_path / "key")) == "from-file"
    monkeypatch.delenv("DETRKIT_SERVE_KEY")
    assert read_key("") is None


def test_detectors_are_named_after_their_runs_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/a").mkdir(parents=True)
    Path("x=y.onnx").touch()
    assert name_weights(["runs/a", "runs/b/best.ckpt", "m/c.onnx", "detr_resnet50", "x=y.onnx", "n=runs/a"]) == {
        "a": "runs/a",
        "b": "runs/b/best.ckpt",
        "c": "m/c.onnx",
        "detr_resnet50": "detr_resnet50",
        "x=y": "x=y.onnx",
        "n": "runs/a",
    }
