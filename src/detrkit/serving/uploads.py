"""Read the images of a request: one as the body itself, or several in a form. Nothing else is read for a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from detrkit.config.serving import ServeLimits
from detrkit.ops.text import one_line
from detrkit.serving.admission import Ticket, too_large
from detrkit.serving.check_image import Upload
from detrkit.serving.refused import RefusedError

MAX_NAME = 100
"""Letters of a file name that are kept."""

MAX_FIELDS = 16
"""Most fields of text in a form; there should be none."""

END = 1024
"""Bytes at the end of a form among which its last boundary is."""

CHUNK = 2**18
"""Bytes of a form that are parsed at a time."""


async def read_uploads(request: Request, ticket: Ticket, limits: ServeLimits) -> list[Upload]:
    """Read the images of a request into memory.

    Args:
        request: its body is one image, or a form (multipart/form-data) whose files are images.
        ticket: of the request, which has a single image; the others are admitted here, as are the bytes.
        limits: what is refused.

    Raises:
        RefusedError: 413 if there is too much, 422 if a form is garbled or has no image, 429 or 503 if the server has
            no room.
        ClientDisconnect: the client has gone.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise too_large(limits)

    async def receive() -> Message:
        message = await request.receive()
        ticket.add_bytes(len(message.get("body", b"")))
        return message

    body = await Request(request.scope, receive).body()
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [Upload("the image", body)]
    uploads = await _read_form(request.headers, body, limits)
    ticket.add_images(len(uploads) - 1)
    return uploads


async def _read_form(headers: Headers, body: bytes, limits: ServeLimits) -> list[Upload]:
    boundary = parse_options_header(headers["content-type"])[1].get(b"boundary", b"")
    if boundary and b"--" + boundary + b"--" not in body[-END:]:  # the parser would return the parts before
        raise RefusedError(422, "expected a form of images, found one that is cut off; send it again")
    parser = MultiPartParser(
        headers, _chunks(body), max_files=limits.max_images, max_fields=MAX_FIELDS, max_part_size=10_000
    )
    parser.spool_max_size = limits.max_bytes + 1  # in memory, never on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        reason = one_line(str(error.message))
        if reason.startswith("Too many files"):
            raise RefusedError(
                413, f"expected at most {limits.max_images} images per request, found more; send several requests"
            ) from error
        raise RefusedError(422, f"expected a form of images, but it cannot be read: {reason[:200]}") from error
    try:
        return _files_of(form.multi_items())
    finally:
        await form.close()


async def _chunks(body: bytes) -> AsyncGenerator[bytes, None]:
    """Parts of a body; other requests have their turn between them."""
    for start in range(0, len(body), CHUNK):
        yield body[start : start + CHUNK]
        await asyncio.sleep(0)


def _files_of(fields: Iterable[tuple[str, UploadFile | str]]) -> list[Upload]:
    uploads: list[Upload] = []
    for field, value in fields:
        if not isinstance(value, UploadFile):
            raise RefusedError(
                422,
                f"expected files alone in the form, found text in the field {one_line(str(field))[:MAX_NAME]!r}; give "
                "settings in the address (?threshold=0.5), and images as files, since neither paths nor URLs are read",
            )
        name = one_line(value.filename or "")[:MAX_NAME] or f"image {len(uploads) + 1}"
        uploads.append(Upload(name, value.file.read()))
    if not uploads:
        raise RefusedError(
            422, "expected at least one image in the form, found none; send it as a file in the field images"
        )
    return uploads
