"""The server itself: how it does, `SIGHUP` by HTTP, and the cookie of a browser."""

from typing import Any

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response

from fleetnet import __version__
from fleetnet_server.identity.scopes import SCOPES
from fleetnet_server.web import models
from fleetnet_server.web.auth import (
    COOKIE,
    Admin,
    Backend,
    Gate,
    Reader,
    address_of,
    is_own_page,
)
from fleetnet_server.web.ports import Holder, Running
from fleetnet_server.web.problems import Json, ProblemError, answered, documented

_log = structlog.get_logger("fleetnet.web")

router = APIRouter(prefix="/api/v1", tags=["server"])
health = APIRouter(tags=["health"])

_PERIOD = {"max_age": 7 * 86_400, "path": "/", "httponly": True, "samesite": "strict"}


def problems_of(running: Running) -> list[str]:
    """Return what keeps the server from its work; nothing when it is ready."""
    found = []
    if running.is_draining:
        found.append("the server is stopping")
    if not running.writer.is_available:
        found.append("the store cannot be written: see the server's log")
    if running.sessions.entering.is_shut:
        found.append("the store is away: devices are sent to other servers")
    if running.router.is_shut:
        found.append("the store is behind: devices wait")
    return found


@router.get("/server", **answered(models.Server))
async def server(running: Backend, holder: Reader, request: Request) -> Json:
    """Show how the server does."""
    states = await running.views.run(running.views.device_states)
    problems = problems_of(running)
    router_ = running.router
    return Json(
        {
            "version": __version__,
            "started_ms": request.app.state.started_ms,
            "tls_port": running.tls_port, "dtls_port": running.dtls_port,
            "is_ready": not problems, "problems": problems,
            "online": {link: count for link, count in running.presence.online.items() if count},
            "devices": states,
            "received": router_.received, "stored": router_.stored,
            "duplicates": router_.duplicates, "problem_messages": router_.problems,
            "lost": running.presence.lost, "backlog": running.writer.backlog,
            "subscribers": running.events.subscribers,
        }
    )  # fmt: skip


@router.post("/server/reload", **answered(models.Reloaded))
async def reload(running: Backend, holder: Admin) -> Json:
    """Read certificates and keys anew, as SIGHUP does; sessions go on."""
    running.audit.note(holder.actor, "reload-asked", None)
    return Json({"reloaded": await running.reload()})


@router.post("/session", **answered(models.Session, 403))
async def log_in(running: Backend, request: Request, login: models.Login) -> Response:
    """Keep a token in a cookie that no script can read, for pages of this server."""
    is_browser = "origin" in request.headers or "sec-fetch-site" in request.headers
    gate: Gate = request.app.state.gate
    if is_browser and not is_own_page(request):
        gate.foreign(request)
        raise ProblemError(403, "a cookie is only given to a page of this server")
    holder = gate.check(login.token, address_of(request))
    _log.info("logged in", actor=holder.actor, address=address_of(request))
    answer = _session(holder)
    is_secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    options: dict[str, Any] = _PERIOD
    answer.set_cookie(COOKIE, login.token, secure=is_secure, **options)
    return answer


@router.get("/session", **answered(models.Session))
async def session(holder: Reader) -> Json:
    """Say whose token this is, and what it is good for."""
    return _session(holder)


@router.delete(
    "/session", status_code=204, response_model=None, response_class=Response,
    responses=documented(),
)  # fmt: skip
async def log_out() -> Response:
    """Forget the cookie. The token stays good: `fleetnet token revoke` ends it."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _session(holder: Holder) -> Json:
    scopes = [scope for scope in SCOPES if scope in holder.scopes]
    return Json({"name": holder.name, "scopes": scopes})


@health.get("/healthz", response_model=models.Health)
async def healthz() -> Json:
    """The process is alive; no token is needed."""
    return Json({"status": "ok", "problems": []})


@health.get(
    "/readyz", response_model=models.Health,
    responses={503: {"model": models.Health, "description": "It cannot do its work now"}},
)  # fmt: skip
async def readyz(running: Backend) -> Json:
    """The server takes messages and keeps them; no token is needed."""
    problems = problems_of(running)
    status = "not ready" if problems else "ok"
    return Json({"status": status, "problems": problems}, 503 if problems else 200)
