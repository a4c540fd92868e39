"""Keep everybody but the person who started the studio out of it.

Other web pages in the same browser can send requests to this machine. Each request therefore needs the token, the name
of this machine as `Host` (against DNS rebinding), the page itself as `Origin`, and a body that no form can send.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detrkit.serving.refused import RefusedError
from detrkit.serving.routes import json_response

COOKIE = "detrkit_studio_{port}"
"""Cookies belong to a host, not to a port; two studios on one machine need two."""

MAX_BODY = 64_000_000
"""Bytes of a body in JSON."""

FORM_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
"""Types of bodies that any web page can send without asking."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
"""Headers of every answer: the page loads and runs nothing but its own files."""


class Guard:
    """Middleware that refuses requests of others.

    Args:
        app: application that answers the rest.
        token: secret that requests must have.
        hosts: names of this machine that may stand in `Host`, besides `localhost` and addresses of numbers.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str] = ()) -> None:
        self.app, self.token = app, token
        self.hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and add headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookie = COOKIE.format(port=(scope.get("server") or ("", 0))[1])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer[name] = value
                answer.setdefault("Cache-Control", "no-cache")
                if scope["path"] == "/" and message["status"] == 200:
                    answer.append("Set-Cookie", f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        try:
            self._check(scope, headers, cookie)
        except RefusedError as error:
            await json_response({"detail": error.sentence}, error.status)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _check(self, scope: Scope, headers: Headers, cookie: str) -> None:
        """Refuse a request of somebody else.

        Raises:
            RefusedError: 401, 403, 413 or 415.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_here(host):
            raise RefusedError(403, f"expected the address that the studio printed, found the host {host[:100]!r}")
        if origin is not None and (urlsplit(origin).netloc != host or urlsplit(origin).scheme not in ("http", "https")):
            raise RefusedError(403, f"expected a request of the studio's own page, found one of {origin[:100]!r}")
        if not self._has_token(scope, headers, cookie):
            raise RefusedError(
                401,
                "expected the token of this studio, found none or another; open the address that it printed when it "
                "was started",
            )
        if scope["method"] in ("GET", "HEAD"):
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in FORM_TYPES:
            raise RefusedError(415, f"expected a body of application/json, found {kind[:100] or 'none'}")
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise RefusedError(411, "expected a body with its length (Content-Length), found one without")
        if kind == "application/json" and int(length) > MAX_BODY:
            raise RefusedError(413, f"expected at most {MAX_BODY // 10**6} MB of JSON, found {int(length) // 10**6} MB")

    def _is_here(self, host: str) -> bool:
        """Whether a `Host` is this machine; an address of numbers cannot be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return "@" not in host and host.rpartition(":")[0 if ":" in host else 2].lower() in self.hosts
        return True

    def _has_token(self, scope: Scope, headers: Headers, cookie: str) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer "), _cookies(headers).get(cookie, "")]
        if scope["path"] == "/":
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return any(hmac.compare_digest(text.encode(), self.token.encode()) for text in given)


def _cookies(headers: Headers) -> MutableMapping[str, Any]:
    """Cookies of a request by name."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}
