"""Put the application together: addresses, errors as sentences, start and end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from detrkit.config.serving import ServeLimits
from detrkit.errors import DetrkitError, OutOfMemoryError
from detrkit.inference import Detector
from detrkit.serving.docs_page import docs_response
from detrkit.serving.metrics import CountStatus
from detrkit.serving.refused import RefusedError
from detrkit.serving.routes import PREDICT, api_router, json_response, state_router
from detrkit.serving.service import Service
from detrkit.version import __version__


def build_app(detectors: Mapping[str, Detector], limits: ServeLimits, key: str | None) -> FastAPI:
    """Make the application; see `detrkit.serving.create_app`. Its `state.service` holds the models."""
    service = Service(detectors, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="detrkit",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.include_router(api_router(service, key))
    app.include_router(state_router(service))

    async def docs() -> Response:
        return docs_response(app.openapi(), with_form=key is None)

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_middleware(CountStatus, metrics=service.metrics, path=PREDICT)
    app.add_exception_handler(RefusedError, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(DetrkitError, refuse)
    app.add_exception_handler(Exception, apologize)
    return app


async def refuse(request: Request, error: Exception) -> Response:
    """Answer with a status and one sentence."""
    if isinstance(error, RequestValidationError):
        error = RefusedError(422, "; ".join(_sentence(each) for each in error.errors()[:3]))
    elif isinstance(error, OutOfMemoryError):
        error = RefusedError(503, "memory ran out while the image was processed; send a smaller image, or later", 1)
    elif isinstance(error, DetrkitError):
        error = RefusedError(422, str(error))
    assert isinstance(error, RefusedError)
    response = json_response({"detail": error.sentence}, error.status)
    response.headers.update(error.headers)
    return response


async def apologize(request: Request, error: Exception) -> Response:
    """Answer after a bug, whose traceback the server logs."""
    return json_response({"detail": f"a bug of detrkit ({type(error).__name__}); the log of the server has more"}, 500)


def _sentence(error: Mapping[str, object]) -> str:
    """A defect of the settings in words."""
    place, message = error.get("loc"), str(error.get("msg", ""))
    name = str(place[-1]) if isinstance(place, tuple) and place else "the request"
    return f"expected another value of {name[:100]}, found {str(error.get('input'))[:100]!r}: {message}"
