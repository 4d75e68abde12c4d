"""Who asks: a token in the header Authorization, or in a cookie that a browser got for it.

    Authorization: Bearer fnt_...

A cookie is only good where the browser says that our own page asked: no other site can have a
browser send commands (CSRF).
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer

from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.scopes import ADMIN, COMMAND, CONFIG, READ, allows
from fleetnet_server.web.ports import Holder, Running
from fleetnet_server.web.problems import ProblemError, refuse_unknown

_log = structlog.get_logger("fleetnet.web")

COOKIE = "fleetnet_token"
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))

# How often the store is told that a token is in use.
_USED_MS = 60_000

# Different wrong tokens of one address in a minute: 160 random bits are not guessed, this keeps
# who tries from costing much. The same one again is a program that was not told of a new one,
# and must not shut others out. So many addresses are remembered.
_MOST_WRONG = 20
_MOST_ADDRESSES = 1024
# Tokens that were good lately, by their hash: more than a fleet's people and scripts have.
_MOST_GOOD = 1024
_PERIOD_S = 60.0

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="`fleetnet token add`")
_cookie = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="cookie", description="POST /api/v1/session"
)


class Gate:
    """Looks tokens up, for one app.

    Attributes:
        refused: requests by what was wrong: the token, too many of them, its scope, or the page
            that a browser asked for.
    """

    def __init__(self, running: Running):
        self._running = running
        self._good: dict[bytes, None] = {}
        self._wrong: dict[str, tuple[float, set[bytes]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = {"token": 0, "rate": 0, "scope": 0, "page": 0}

    def check(self, token: str, address: str) -> Holder:
        """Return the holder of a token.

        Raises:
            ProblemError: 401: it is not known any more; 429: too many wrong ones.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        # Behind a proxy all have one address: who guesses there must not shut out who was let in.
        if digest not in self._good and self._is_shut(address):
            raise ProblemError(
                429, "too many wrong tokens from this address", {"Retry-After": "60"}
            )
        holder = self._running.tokens.find(token)
        if holder is None:
            self._good.pop(digest, None)
            self._note_wrong(address, digest)
            raise unauthorized("this token is unknown, was revoked, or has expired")
        self._good[digest] = None
        if len(self._good) > _MOST_GOOD:
            del self._good[next(iter(self._good))]
        now_ms = time.time_ns() // 1_000_000
        if holder.used_ms is None or now_ms - holder.used_ms > _USED_MS:
            self._note_used(holder.name)
        return holder

    def still_allows(self, token: str, scope: str) -> bool:
        """Say whether what began with a token may go on."""
        try:
            holder = self._running.tokens.find(token)
        except StoreUnavailable:
            return True  # nobody can revoke it now, either
        return holder is not None and allows(holder.scopes, scope)

    def denied(self, holder: Holder, scope: str, request: Request) -> None:
        """A token was good, and not for this."""
        self.refused["scope"] += 1
        path = request.url.path[:100]
        detail = {"scope": scope, "path": path}
        if self._running.audit.note_repeated(holder.actor, "request-denied", None, detail):
            _log.warning(
                "request denied", actor=holder.actor, address=address_of(request), scope=scope,
                method=request.method, path=path,
            )  # fmt: skip

    def foreign(self, request: Request) -> None:
        """A browser sent a cookie of ours, for a page that is not."""
        self.refused["page"] += 1
        address, origin = address_of(request), request.headers.get("origin", "")[:100]
        if self._running.audit.note_repeated(address, "page-refused", None, {"origin": origin}):
            _log.warning("cookie refused: not our page", address=address, origin=origin)

    def _is_shut(self, address: str) -> bool:
        at, tokens = self._wrong.get(address, (0.0, frozenset()))
        is_shut = len(tokens) >= _MOST_WRONG and time.monotonic() - at < _PERIOD_S
        self.refused["rate"] += is_shut
        return is_shut

    def _note_wrong(self, address: str, digest: bytes) -> None:
        self.refused["token"] += 1
        now = time.monotonic()
        at, tokens = self._wrong.pop(address, (now, set()))
        if now - at >= _PERIOD_S:
            at, tokens = now, set()
        tokens.add(digest)
        self._wrong[address] = (at, tokens)
        if len(self._wrong) > _MOST_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]
        if self._running.audit.note_repeated(address, "token-refused", None, {}):
            _log.warning("token refused", address=address)

    def _note_used(self, name: str) -> None:
        if any(task.get_name() == name for task in self._tasks):
            return
        task = asyncio.get_running_loop().create_task(self._write_used(name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_used(self, name: str) -> None:
        try:
            await asyncio.to_thread(self._running.tokens.note_used, name)
        except StoreUnavailable:
            pass  # a date that people look at; the next request tries again

    async def stop(self) -> None:
        """Wait for what is written."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def unauthorized(detail: str) -> ProblemError:
    """Return a 401 that says what is wanted."""
    return ProblemError(401, detail, {"WWW-Authenticate": 'Bearer realm="fleetnet"'})


def running_of(request: Request) -> Running:
    """Return the back-end of an app."""
    found: Running = request.app.state.running
    return found


def address_of(request: Request) -> str:
    """Return the address of the client, without its port."""
    return request.client.host if request.client is not None else "unknown"


def is_own_page(request: Request) -> bool:
    """Say whether a browser sends this for a page of ours (Fetch metadata, or Origin)."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin" or (site == "none" and request.method in _SAFE)
    origin = request.headers.get("origin")
    if origin is None:
        return request.method in _SAFE
    return urlsplit(origin).netloc == request.headers.get("host", "")


def _requires(scope: str) -> Callable[..., Awaitable[Holder]]:
    async def holder_of(
        request: Request,
        bearer: Annotated[object, Depends(_bearer)],
        cookie: Annotated[str | None, Depends(_cookie)],
    ) -> Holder:
        gate: Gate = request.app.state.gate
        token = getattr(bearer, "credentials", None)
        if token is None:
            if cookie is None:
                raise unauthorized("a token is needed: `fleetnet token add` makes one")
            if not is_own_page(request):
                gate.foreign(request)
                raise ProblemError(403, "a cookie is only taken from a page of this server")
            token = cookie
        holder = gate.check(token, address_of(request))
        if not allows(holder.scopes, scope):
            gate.denied(holder, scope, request)
            raise ProblemError(403, f"this token lacks the scope {scope!r}")
        request.state.token = token
        refuse_unknown(request)
        if scope != READ:
            # One line for each decision that changes something; reading is what everybody does.
            _log.info(
                "request allowed", actor=holder.actor, address=address_of(request), scope=scope,
                method=request.method, path=request.url.path,
            )  # fmt: skip
        return holder

    # The test of every route asks for it.
    holder_of.scope = scope  # type: ignore[attr-defined]
    return holder_of


Backend = Annotated[Running, Depends(running_of)]
Reader = Annotated[Holder, Depends(_requires(READ))]
Commander = Annotated[Holder, Depends(_requires(COMMAND))]
Configurer = Annotated[Holder, Depends(_requires(CONFIG))]
Admin = Annotated[Holder, Depends(_requires(ADMIN))]
