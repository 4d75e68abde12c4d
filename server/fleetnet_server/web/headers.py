"""What every answer carries and every request is held to, as ASGI middleware."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Collection
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetnet_server.web.problems import problem

# A configuration or arguments are 16 KiB at most (fleetnet/commands.py), in JSON that may write
# each character as six.
MOST_BODY = 128 << 10

# Pages of this server load from it and from nowhere else; what is no page loads nothing.
_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self';"
    " connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_NO_PAGE = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

# For a whole body to come; a head has as long (web/serving.py).
_BODY_S = 10.0

Count = Callable[[str, int, float], None]


class _TooLarge(HTTPException):
    """What FastAPI lets through while it reads a body; everything else becomes 400 there."""

    def __init__(self) -> None:
        detail = f"a request has {MOST_BODY} B at most"
        super().__init__(413, detail, {"Connection": "close"})


class _TooLate(HTTPException):
    """As _TooLarge: a body that never ends would hold its connection for ever."""

    def __init__(self) -> None:
        detail = f"the body of a request has to come within {_BODY_S:.0f} s"
        super().__init__(408, detail, {"Connection": "close"})


class Guard:
    """Bounds bodies, sets headers, counts requests, and knows by which names it is called.

    Args:
        count: called with the method, the status and the seconds of each answer.
        names: returns the names that a browser may use for this server.
    """

    def __init__(self, app: ASGIApp, count: Count, names: Callable[[], Collection[str]]):
        self._app = app
        self._count = count
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # An answer without end (events) is counted when it begins.
                self._count(scope["method"], status, time.monotonic() - began)
                _add_headers(message)
            await send(message)

        bounded = _Bounded(receive)
        try:
            if _length(scope) > MOST_BODY:
                raise _TooLarge
            if not self._is_called_so(scope):
                await _MISDIRECTED(scope, receive, send_with_headers)
                return
            await self._app(scope, bounded.receive, send_with_headers)
        except (_TooLarge, _TooLate) as error:
            if not status:
                answer = problem(error.status_code, error.detail, dict(error.headers or {}))
                await answer(scope, receive, send_with_headers)

    def _is_called_so(self, scope: Scope) -> bool:
        """Say whether the header Host is one of ours.

        A name of somebody else's that was pointed to our address would let its pages ask here
        in the name of whoever looks at them (DNS rebinding). They have no token, so that who
        shows one may use any name; an address cannot be pointed elsewhere.
        """
        headers = dict(scope["headers"])
        if b"authorization" in headers or b"host" not in headers:
            return True
        host = _host_of(headers[b"host"].decode("latin-1"))
        return host == "localhost" or host in self._names() or _is_address(host)


class _Bounded:
    """Counts the bytes of a body that did not tell its length, and the time that it takes."""

    def __init__(self, receive: Receive):
        self._receive = receive
        self._size = 0
        self._until: float | None = time.monotonic() + _BODY_S

    async def receive(self) -> Message:
        if self._until is None:
            return await self._receive()  # whoever waits for the client's leaving
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise _TooLate from None
        if not message.get("more_body", False):
            self._until = None
        self._size += len(message.get("body", b""))
        if self._size > MOST_BODY:
            raise _TooLarge
        return message


_MISDIRECTED = problem(
    421, "this server does not know itself by that name: set web_host, or ask by its address"
)


def _host_of(text: str) -> str:
    """Return the name or address of a Host header, without its port."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".").lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _length(scope: Scope) -> int:
    for key, value in scope["headers"]:
        if key == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _add_headers(message: Any) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    is_page = headers.get("content-type", "").startswith("text/html")
    headers.setdefault("Content-Security-Policy", _PAGE if is_page else _NO_PAGE)
    headers.setdefault("Cache-Control", "no-store")
