"""The HTTP listener: uvicorn inside the back-end's own loop, beside the ports of devices."""

import asyncio
import socket
import time
from typing import Any

import structlog
import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from fleetnet_server.web.api import make_app
from fleetnet_server.web.ports import Running

_log = structlog.get_logger("fleetnet.web")

# Browsers and scripts of a few people, Prometheus, 64 readers of events: more get 503.
_MOST_CONNECTIONS = 256

# A connection that has not sent a whole request head by then is closed (slowloris), one that
# idles between requests as well.
_HEAD_S = 10.0
_IDLE_S = 30

# A client that takes nothing of its answer for so long belongs to nobody who reads; without this
# a few hundred of them would hold every connection for ever.
_TAKE_S = 15.0

# What is said of the request itself is short; 16 KiB of headers are twice what browsers send.
_HEAD_BYTES = 16 << 10

# What the kernel keeps for one client that does not read; it would grow this to megabytes.
_SEND_BYTES = 128 << 10

# Seconds: for requests under way at the end, between looks at the clients, of a count.
_STOP_S = 3.0
_LOOK_S = 0.5
_PERIOD_S = 10.0


class _Protocol(H11Protocol):
    """Closes a connection whose request does not come, or whose client takes no answer."""

    _head: asyncio.TimerHandle | None = None
    _watch: asyncio.TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(_HEAD_S, self._too_late)
        self._watch = self.loop.call_later(_TAKE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._watch):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = 0

    def _look(self) -> None:
        """Abort when nothing was taken since the last look; a closed one waits for that, too."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._watch = self.loop.call_later(_TAKE_S, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_waiting = self.cycle is None or (
            self.cycle.response_complete and self.timeout_keep_alive_task is None
        )
        if self._head is not None and not is_waiting:
            self._head.cancel()
            self._head = None
        elif self._head is None and is_waiting:
            self._head = self.loop.call_later(_HEAD_S, self._too_late)

    def _too_late(self) -> None:
        self._head = None
        self.transport.abort()


class WebServer:
    """The listener; ``start``, and ``stop`` at the end.

    Attributes:
        port: the real one. app: what is served.
    """

    def __init__(self, running: Running):
        self._running = running
        self.app = make_app(running)
        self.app.state.abort = self._abort
        self.port = 0
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, bind: str, port: int) -> None:
        """Open the port. Raises OSError: it is in use."""
        config = uvicorn.Config(
            self.app, http=_Protocol, ws="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=True,
            limit_concurrency=_MOST_CONNECTIONS, timeout_keep_alive=_IDLE_S,
            h11_max_incomplete_event_size=_HEAD_BYTES, timeout_graceful_shutdown=1,
        )  # fmt: skip
        config.load()
        self._socket = _listen(bind, port)
        self.port = int(self._socket.getsockname()[1])
        server = self._server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._socket])
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(_tick(server)),
            loop.create_task(_measure(self.app.state.lag)),
        ]
        if not bind.startswith("127.") and bind not in ("::1", "localhost"):
            _log.warning("HTTP is not encrypted: put a TLS proxy before it", bind=bind)
        _log.info("listening for HTTP", bind=bind, port=self.port)

    async def stop(self) -> None:
        """End the events, answer what was asked, close."""
        self._running.events.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        server, self._server = self._server, None
        if server is not None and self._socket is not None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await server.shutdown(sockets=[self._socket])
            except TimeoutError:
                pass
            for connection in list(server.server_state.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            self._socket.close()
        await self.app.state.gate.stop()

    def _abort(self, scope: Scope) -> None:
        """End the connection of a request: what its client did not read is thrown away."""
        if self._server is None:
            return
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, _Protocol) and connection.client == scope.get("client"):
                connection.transport.abort()


def _listen(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        made.bind((bind, port))
    except OSError:
        made.close()
        raise
    return made


async def _tick(server: uvicorn.Server) -> None:
    """What uvicorn.Server.main_loop does: the header Date, once a second."""
    counter = -1
    while True:
        counter = (counter + 1) % 864_000
        await server.on_tick(counter)
        await asyncio.sleep(0.1)


async def _measure(lag: Any) -> None:
    until = time.monotonic() + _PERIOD_S
    while True:
        began = time.monotonic()
        await asyncio.sleep(_LOOK_S)
        now = time.monotonic()
        lag.add(max(0.0, now - began - _LOOK_S))
        if now >= until:
            until = now + _PERIOD_S
            lag.next_period()
