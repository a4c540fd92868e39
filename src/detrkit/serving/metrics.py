"""Figures of a running server in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "detrkit_requests", "Requests for predictions, by status.", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "detrkit_request_seconds", "Time from request to answer.", buckets=SECONDS, registry=self.registry
        )
        self.images = Counter("detrkit_images", "Images that went through a model.", ["model"], registry=self.registry)
        self.model_seconds = Histogram(
            "detrkit_model_seconds", "Time per forward pass.", ["model"], buckets=SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "detrkit_batch_size",
            "Images per forward pass.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.open_images = Gauge("detrkit_open_images", "Images accepted and not answered yet.", registry=self.registry)

    def record_batch(self, model: str, images: int, seconds: float) -> None:
        """Note a forward pass."""
        self.images.labels(model).inc(images)
        self.batch_size.labels(model).observe(images)
        self.model_seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return bytes(generate_latest(self.registry))


class CountStatus:
    """ASGI middleware that counts the answers of one path by status.

    Args:
        app: application to wrap.
        metrics: where they are counted.
        path: that is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, path: str) -> None:
        self.app, self.metrics, self.path = app, metrics, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not scope["path"].endswith(self.path):
            await self.app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting)
