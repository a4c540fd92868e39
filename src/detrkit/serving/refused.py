"""An answer other than detections: a status of HTTP, and one sentence."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is not answered with detections.

    Args:
        status: of HTTP.
        sentence: what was expected, what was found, and what to do.
        retry_after: seconds after which the client may try again; None: trying again is no use.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 408:
            headers["Connection"] = "close"  # the rest of the upload is not waited for
        return headers
