"""The app: every resource of the HTTP API, with its errors, its headers and its OpenAPI page."""

import time
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Scope

from fleetnet import __version__
from fleetnet_server.web import (
    access,
    audit,
    blobs,
    commands,
    configs,
    dashboard,
    devices,
    events,
    history,
    identities,
    metrics,
    overview,
    readings,
    server,
)
from fleetnet_server.web.auth import Gate
from fleetnet_server.web.headers import Guard
from fleetnet_server.web.ports import Running
from fleetnet_server.web.problems import Problem, install
from fleetnet_server.web.requests import Lag, Requests

_ROOMS = (
    access, overview, devices, readings, history, commands, configs, blobs, identities, audit,
    events, server, metrics, dashboard,
)  # fmt: skip


def make_app(running: Running) -> FastAPI:
    """Make the app of a running back-end; web/serving.py runs it.

    Attributes of ``app.state``: running, gate, requests, lag, exposition, started_ms, and abort,
    a function(scope) that ends a connection at once.
    """
    app = FastAPI(
        title="fleetnet", version=__version__, summary="A fleet of devices, seen and told.",
        openapi_url="/api/openapi.json",
        # Their pages load scripts from other hosts, which a page of this server never does.
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    requests = Requests()
    state = app.state
    state.running = running
    state.gate = Gate(running)
    state.requests = requests
    state.lag = Lag()
    state.exposition = metrics.Exposition(running, requests, state.lag, state.gate)
    state.started_ms = time.time_ns() // 1_000_000
    state.abort = _no_abort
    for room in _ROOMS:
        app.include_router(room.router)
    app.include_router(server.health)
    install(app)
    app.add_middleware(Guard, count=requests.count, names=lambda: _names(running))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Make the page once, with the form of errors as they are (RFC 9457)."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = made["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = made
    return app.openapi_schema


def _names(running: Running) -> set[str]:
    """By which names a browser may reach the server; every address is one as well."""
    settings = running.settings
    return {name.lower() for name in (settings.host, settings.web_bind, settings.web_host) if name}


def _no_abort(scope: Scope) -> None:
    """Where no server runs the app."""
