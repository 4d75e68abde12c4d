"""What happens now, as server-sent events (WHATWG HTML section 9.2).

    event: session-opened
    id: 3f2a9c01-17
    data: {"id":"3f2a9c01-17","at_ms":...,"kind":"session-opened","device":"cam-1",...}

A reader that does not read is cut off and counted; it comes back with Last-Event-ID and gets
what it missed, as far as it is kept. A comment line every 15 s keeps proxies from closing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fleetnet_server.core.events import Event, Events, Subscription
from fleetnet_server.identity.scopes import READ
from fleetnet_server.web import models
from fleetnet_server.web.auth import Backend, Gate, Reader
from fleetnet_server.web.problems import ProblemError, documented

router = APIRouter(prefix="/api/v1", tags=["events"])

# Each has a queue of 1 MiB at most, and a connection.
MOST_READERS = 64

# Proxies close what is silent for 30 to 60 s.
_HEARTBEAT_S = 15.0
# A client's socket that takes nothing for so long belongs to nobody who reads.
_SEND_S = 10.0
_RETRY_MS = 2000

# How long a stream may outlive its token; a seek in the store each time.
_ASK_S = 5.0

Kind = Literal[
    "session-opened", "session-ended", "session-refused", "gap", "alarm", "command-ended",
    "config-applied", "config-rejected", "blob-stored", "readings", "live",
]  # fmt: skip


@router.get(
    "/events", response_model=None, response_class=Response,
    responses={
        200: {
            "description": "Events without end",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(404),
    },
)  # fmt: skip
async def events(
    request: Request, running: Backend, holder: Reader,
    kind: Annotated[
        list[Kind], Query(max_length=16, description="default: all but readings and live")
    ] = [],  # noqa: B006 - FastAPI copies it
    device: models.DeviceFilter = None,
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> Response:  # fmt: skip
    """Follow what happens: sessions, alarms, answers; readings as they become durable."""
    feed = running.events
    if feed.subscribers >= MOST_READERS:
        raise ProblemError(503, f"{feed.subscribers} readers already", {"Retry-After": "10"})
    subscription = feed.subscribe(kind or None, device, last_event_id, cut_when_slow=True)
    state, token = request.app.state, request.state.token
    gate: Gate = state.gate
    return EventStream(feed, subscription, state.abort, lambda: gate.still_allows(token, READ))


class EventStream(Response):
    """Sends a subscription's events until one of both ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        feed: Events,
        subscription: Subscription,
        abort: Callable[[Scope], None],
        is_allowed: Callable[[], bool],
    ):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._subscription = subscription
        self._abort = abort
        self._is_allowed = is_allowed
        self._asked = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI application."""
        leaving = asyncio.ensure_future(_left(receive))
        sending = asyncio.ensure_future(self._send_all(scope, send))
        try:
            await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._subscription.close()
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await self._send(send, f"retry: {_RETRY_MS}\n\n")
            await self._follow(send)
        except TimeoutError:
            if not self._subscription.is_cut:
                self._feed.cut += 1
            self._abort(scope)
            return
        if self._subscription.is_cut:
            self._abort(scope)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, send: Send) -> None:
        events = aiter(self._subscription)
        upcoming: asyncio.Future[Event] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait((upcoming,), timeout=_HEARTBEAT_S)
                if not self._may_go_on():
                    return
                if not done:
                    await self._send(send, ":\n\n")
                    continue
                event = upcoming.result()
                upcoming = None
                await self._send(send, as_text(event))
        except StopAsyncIteration:
            return
        finally:
            if upcoming is not None:
                upcoming.cancel()

    def _may_go_on(self) -> bool:
        """Ask now and then: a stream has no end, and its token may have been revoked."""
        now = time.monotonic()
        if now - self._asked < _ASK_S:
            return True
        self._asked = now
        return self._is_allowed()

    async def _send(self, send: Send, text: str) -> None:
        async with asyncio.timeout(_SEND_S):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def as_text(event: Event) -> str:
    """Return an event as the stream has it; its JSON is ASCII and one line."""
    identity = f"id: {event.id}\n" if event.id else ""
    return f"event: {event.kind}\n{identity}data: {event.text}\n\n"


async def _left(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
