"""Errors as RFC 9457 problem documents, and JSON that any value of a device survives."""

import json
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fleetnet.errors import CredentialError, FleetError
from fleetnet_server.errors import (
    CommandError,
    CommandTimeout,
    ConfigError,
    DeviceOffline,
    FolderError,
    IdentityError,
    NotAllowed,
    StoreError,
    StoreUnavailable,
)

_log = structlog.get_logger("fleetnet.web")

MEDIA_TYPE = "application/problem+json"

# Of one error that the caller made, in the answer: it came from the caller, and may be long.
_MOST_ERRORS = 10
_MOST_TEXT = 300

# The first that fits.
_STATUS: tuple[tuple[type[FleetError], int], ...] = (
    (StoreUnavailable, 503),
    (NotAllowed, 403),
    (DeviceOffline, 409),
    (CommandTimeout, 504),
    (CommandError, 409),
    (StoreError, 404),
    (IdentityError, 422),
    (ConfigError, 422),
    # Files of the fleet that cannot be used: the message names them.
    (CredentialError, 503),
    (FolderError, 503),
)


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemError(Exception):
    """Raised by a route: becomes a problem document."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Json(Response):
    """JSON in ASCII: half a surrogate pair, which JSON allows and UTF-8 does not, goes through."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return a problem document: "about:blank" has the status' own phrase for its title."""
    shown = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status,
        "detail": detail,
    }  # fmt: skip
    return Json(shown, status, headers, MEDIA_TYPE)


def refuse_unknown(request: Request) -> None:
    """Raise ProblemError when a query has a parameter that its route does not: a filter that is
    misspelt would let everything through."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = _parameters(route.dependant)
    strange = sorted({key for key in request.query_params if key not in known})
    if strange:
        shown = ", ".join(strange[:_MOST_ERRORS])[:_MOST_TEXT]
        there = ", ".join(sorted(known)) or "none"
        raise ProblemError(422, f"unknown query parameter: {shown}; there are: {there}")


def _parameters(dependant: Dependant) -> set[str]:
    found = {field.alias for field in dependant.query_params}
    return found.union(*map(_parameters, dependant.dependencies))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` for the problems that a route may answer with."""
    every = (400, 401, 403, 408, 413, 415, 421, 422, 429, 503, *statuses)
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in every
    }


def answered(model: Any, *statuses: int, status: int = 200) -> dict[str, Any]:
    """Return what a route says of its answers: the model of the good one, and the problems."""
    return {
        "response_model": None,
        "responses": {status: {"model": model, "description": "Done"}, **documented(*statuses)},
        "status_code": status,
    }


def install(app: FastAPI) -> None:
    """Turn every error of an app into a problem document."""
    app.add_exception_handler(ProblemError, _problem_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FleetError, _fleet_error)
    app.add_exception_handler(Exception, _unexpected)


async def _problem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem(error.status, error.detail, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").partition(";")[0]
    if any(one["loc"] == ("body",) for one in error.errors()) and kind != "application/json":
        return problem(415, "the body has to be JSON: send Content-Type: application/json")
    found = [
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
        for one in error.errors()[:_MOST_ERRORS]
    ]
    return problem(422, "; ".join(found)[: _MOST_TEXT * 3])


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = "no such route: see /api/openapi.json"
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, detail[:_MOST_TEXT], headers)


async def _fleet_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return await _unexpected(request, error)
    headers = {"Retry-After": "2"} if status == 503 else None
    return problem(status, str(error), headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, "the server's log says more")
