"""Count the images that a server has accepted and not answered yet, and refuse more than it can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from detrkit.config.serving import ServeLimits
from detrkit.serving.refused import RefusedError

BODIES = 16
"""Uploads of the largest size that are held in memory at a time."""


class Admission:
    """The images that are accepted and not answered yet; used in the thread of the event loop, `record` in others too.

    Args:
        limits: how many images and bytes there may be.
    """

    def __init__(self, limits: ServeLimits) -> None:
        self.limits = limits
        self.images = self.bytes = 0
        self.per_client: Counter[str] = Counter()
        self.seconds_per_image = 0.0
        """Average over the last images, from which `Retry-After` is estimated."""

    @contextmanager
    def ticket(self, client: str) -> Iterator[Ticket]:
        """Admit a request with its first image; its images and bytes are given back at the end.

        Raises:
            RefusedError: 503 if the server is full, 429 if the client has too many images in it.
        """
        ticket = Ticket(self, client)
        ticket.add_images(1)
        try:
            yield ticket
        finally:
            ticket.close()

    def record(self, images: int, seconds: float) -> None:
        """Note the time that a batch took."""
        self.seconds_per_image += 0.1 * (seconds / images - self.seconds_per_image)

    @property
    def retry_after(self) -> int:
        """Seconds in which the present images may be answered, 1 to 60."""
        return min(60, max(1, ceil(self.images * self.seconds_per_image)))


class Ticket:
    """What one request holds of an `Admission`.

    Args:
        admission: of the server.
        client: address of the client.
    """

    def __init__(self, admission: Admission, client: str) -> None:
        self.admission, self.client = admission, client
        self.images = self.bytes = 0

    def add_images(self, count: int) -> None:
        """Admit images.

        Raises:
            RefusedError: see `Admission.ticket`.
        """
        admission, limits = self.admission, self.admission.limits
        if limits.max_per_client and admission.per_client[self.client] + count > limits.max_per_client:
            raise RefusedError(
                429,
                f"expected at most {limits.max_per_client} images of one client at a time; wait for the answers to "
                "those before",
                admission.retry_after,
            )
        if admission.images + count > limits.max_queue:
            raise RefusedError(
                503,
                f"the server is busy with {admission.images} of at most {limits.max_queue} images; try again later",
                admission.retry_after,
            )
        self.images += count
        admission.images += count
        admission.per_client[self.client] += count

    def add_bytes(self, count: int) -> None:
        """Admit a part of the body.

        Raises:
            RefusedError: 413 if the body is too large, 503 if all bodies together are.
        """
        admission, limits = self.admission, self.admission.limits
        self.bytes += count
        admission.bytes += count
        if self.bytes > limits.max_bytes:
            raise too_large(limits)
        if admission.bytes > BODIES * limits.max_bytes:
            raise RefusedError(503, "the server is busy with other uploads; try again later", admission.retry_after)

    def close(self) -> None:
        """Give everything back."""
        admission = self.admission
        admission.images -= self.images
        admission.bytes -= self.bytes
        admission.per_client[self.client] -= self.images
        if not admission.per_client[self.client]:
            del admission.per_client[self.client]
        self.images = self.bytes = 0


def too_large(limits: ServeLimits) -> RefusedError:
    """The refusal of a body that is too large."""
    return RefusedError(
        413, f"expected a body of at most {limits.max_upload_mb:g} MB, found a larger one; send fewer or smaller images"
    )
