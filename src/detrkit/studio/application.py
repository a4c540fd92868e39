"""Put the application of the studio together: pages, files of the browser, errors as sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from detrkit.errors import DISK_FULL, DetrkitError
from detrkit.serving.app import apologize, refuse
from detrkit.serving.refused import RefusedError
from detrkit.serving.routes import json_response
from detrkit.studio import images_page, label_page, results_page, train_page, try_page
from detrkit.studio.project import Project
from detrkit.studio.security import Guard
from detrkit.version import __version__

STATIC = Path(__file__).parent / "static"
"""Files of the browser."""

PAGES = (images_page, label_page, train_page, results_page, try_page)
"""One module per page of the studio; its `router(project)` has the addresses below `/api` that the page asks."""


def build_app(project: Project, token: str, hosts: Iterable[str] = ()) -> FastAPI:
    """Make the application; see `detrkit.studio.create_app`.

    Args:
        project: project folder.
        token: secret that requests must have.
        hosts: names of this machine by which it may be addressed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        project.start()
        yield
        await run_in_threadpool(project.close)

    app = FastAPI(
        title="detrkit studio", version=__version__, openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.state.project = project
    for page in PAGES:
        app.include_router(page.router(project), prefix="/api")

    async def index() -> Response:
        return FileResponse(STATIC / "index.html")

    async def describe() -> Response:
        return json_response({"name": project.root.name, "folder": str(project.root), "version": __version__})

    app.add_api_route("/", index)
    app.add_api_route("/api/project", describe)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_middleware(Guard, token=token, hosts=tuple(hosts))
    app.add_exception_handler(RefusedError, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(DetrkitError, refuse)
    app.add_exception_handler(OSError, explain_file_error)
    app.add_exception_handler(Exception, apologize)
    return app


async def explain_file_error(request: Request, error: Exception) -> Response:
    """Answer in a sentence where a file of the project cannot be read or written."""
    assert isinstance(error, OSError)
    full = error.errno in DISK_FULL
    advice = "make room on the disk and try again" if full else "look at the file and its permissions"
    sentence = f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}; {advice}"
    return await refuse(request, RefusedError(507 if full else 422, sentence))
