"""`detrkit studio`: look at images, label, train and try detectors in a browser."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import warnings
import webbrowser

from detrkit.config.serving import StudioConfig
from detrkit.errors import DetrkitWarning
from detrkit.ops.console import make_console
from detrkit.ops.text import flush_output
from detrkit.serving import require_packages

GRACE = 5.0
"""Seconds that open requests have to end after Ctrl-C."""


def studio(config: StudioConfig) -> None:
    """Serve the studio's page until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: there is no such folder, or the address cannot be used.
        MissingExtraError: the extra `serve` is not installed.
    """
    require_packages("detrkit studio")
    from detrkit.commands.serve import silence_opencv
    from detrkit.serving.server import bind, is_loopback, run, url_of
    from detrkit.studio.application import build_app
    from detrkit.studio.project import Project

    project, token = Project(config.folder), secrets.token_urlsafe()
    with bind(config.host, config.port) as bound:
        if not is_loopback(bound):
            warnings.warn(
                DetrkitWarning(
                    f"--host {config.host} can be reached from other machines: anyone who learns the address below can "
                    f"change labels in {project.root} and start trainings, and the network can read it"
                ),
                stacklevel=2,
            )
        silence_opencv()
        app = build_app(project, token, (config.host, socket.gethostname()))
        bound.listen()
        url = f"{url_of(bound)}/?token={token}"
        make_console(quiet=config.quiet).print(f"Studio of {project.root}; Ctrl-C ends it", soft_wrap=True)
        make_console().print(f"Open {url}", soft_wrap=True)
        flush_output()
        if not config.no_browser and has_screen():
            webbrowser.open(url)
        run(app, bound, GRACE)


def has_screen() -> bool:
    """Whether a browser can open a window; one in the terminal would wait for its end."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
