"""Addresses of the page Train."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from detrkit.serving.routes import json_response
from detrkit.studio.project import Project
from detrkit.studio.proposal import list_data, propose
from detrkit.studio.run_folders import describe_run, find_run, find_runs, read_log
from detrkit.studio.train_jobs import Jobs

Setting = str | int | float


class Start(BaseModel):
    """A training to start."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    data: str
    settings: dict[str, Setting] = {}


class Choices(BaseModel):
    """Data and choices that settings are proposed for."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    data: str
    settings: dict[str, Setting] = {}


class Run(BaseModel):
    """A run, by its path in the project."""

    model_config = ConfigDict(extra="forbid")

    run: str


def router(project: Project) -> APIRouter:
    """The addresses of the page.

    Args:
        project: project folder.
    """
    jobs, routes = Jobs(project), APIRouter(prefix="/train")

    def runs() -> Response:
        return json_response({"runs": [describe_run(project, folder) for folder in find_runs(project)]})

    def data() -> Response:
        return json_response(list_data(project))

    def proposal(choices: Choices) -> Response:
        return json_response(propose(project, choices.data, dict(choices.settings)))

    def start(order: Start) -> Response:
        return json_response({"run": jobs.train(order.name.strip(), order.data, order.settings)})

    def stop(order: Run) -> Response:
        jobs.stop(find_run(project, order.run))
        return json_response({"run": order.run})

    def resume(order: Run) -> Response:
        jobs.resume(find_run(project, order.run))
        return json_response({"run": order.run})

    def log(run: str) -> Response:
        content: dict[str, Any] = {"run": run, "text": read_log(find_run(project, run))}
        return json_response(content)

    routes.add_api_route("/runs", runs)
    routes.add_api_route("/data", data)
    routes.add_api_route("/proposal", proposal, methods=["POST"])
    routes.add_api_route("/start", start, methods=["POST"])
    routes.add_api_route("/stop", stop, methods=["POST"])
    routes.add_api_route("/resume", resume, methods=["POST"])
    routes.add_api_route("/log", log)
    return routes
