"""Run the application on a socket until a signal ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
from math import ceil
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from detrkit.errors import ConfigError

KEY_VARIABLE = "DETRKIT_SERVE_KEY"

KEEP_ALIVE = 65
"""Seconds that an idle connection stays open: longer than reverse proxies keep theirs."""


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket.

    Raises:
        ConfigError: there is no such address here, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"expected an address of this machine for --host, found {host!r}: {error}") from error
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another --port, or end the "
            "program that has it"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket, as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def read_key(path: str) -> str | None:
    """The key of the server: the content of a file, or the environment variable DETRKIT_SERVE_KEY; None: neither.

    Neither can be seen in the list of processes, as a flag could.

    Raises:
        ConfigError: the file cannot be read, or the key is empty or not one word of ASCII.
    """
    if path:
        try:
            key, where = Path(path).read_text(encoding="utf-8").strip(), f"in --key_file {path}"
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"expected a key in --key_file {path}, which cannot be read: {error}") from error
    elif KEY_VARIABLE in os.environ:
        key, where = os.environ[KEY_VARIABLE].strip(), f"in the environment variable {KEY_VARIABLE}"
    else:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"expected a key of one word of ASCII {where}, found {'none' if not key else 'other letters'}; make one "
            "with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return key


def run(app: FastAPI, bound: socket.socket, deadline: float) -> None:
    """Serve until SIGTERM or Ctrl-C. What was accepted is answered first; new connections are refused.

    Args:
        app: application to serve.
        bound: socket to listen at.
        deadline: seconds that a request may take.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # the same whatever else is installed
        loop="asyncio",
        http="h11",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=ceil(deadline) + 5,
    )
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again once it has ended in order
    try:
        with contextlib.closing(bound):
            uvicorn.Server(config).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, former)
