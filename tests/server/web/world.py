"""A real `fleetnet serve` with its HTTP port, and a client that speaks to it over a real socket."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from end_to_end.fleet import Fleet, free_port
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.tokens import TokenTable

PATIENCE_S = 30.0


class Answer(NamedTuple):
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebFleet(Fleet):
    """A fleet whose server answers HTTP.

    Attributes:
        web: the address. tokens: by name; "read", "command", "config", "admin" are there.
    """

    modules = ("fleetnet_server.web.serving", "uvicorn.protocols.http.h11_impl")

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.web = ("127.0.0.1", free_port())
        self.tokens: dict[str, str] = {}
        self.writers: list[asyncio.StreamWriter] = []
        for scope in ("read", "command", "config", "admin"):
            self.tokens[scope] = self.add_token(scope, scope)

    @property
    def devices_folder(self) -> Path:
        return self.folder / "devices"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"FLEETNET_WEB_PORT": str(self.web[1])}

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await super().close()

    def add_token(self, name: str, *scopes: str, expires_ms: int | None = None) -> str:
        """Make a token as `fleetnet token add` does."""
        with SqliteStore(self.store) as store:
            return TokenTable(store).add(name, scopes, "test", expires_ms)

    def ask_now(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = "admin",
        headers: Mapping[str, str] | None = None,
        query: Any = None,
    ) -> Answer:
        """Send one request. ``token``: the name of one that was made here, or a token."""
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {self.tokens.get(token, token)}")
        content: bytes | None = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if query:
            path += "?" + urlencode(query, doseq=True, errors="surrogatepass")
        connection = http.client.HTTPConnection(*self.web, timeout=PATIENCE_S)
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            kept = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, kept, answer.read())
        finally:
            connection.close()

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """Send one request beside the event loop."""
        return await asyncio.to_thread(self.ask_now, method, path, body, **more)

    async def get(self, path: str, **more: Any) -> Any:
        """Return the document of a GET that must succeed."""
        answer = await self.ask("GET", path, **more)
        assert answer.status == 200, (path, answer.status, answer.body)
        return answer.json


class Stream:
    """Server-sent events over a socket of one's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer
        self._lines: list[str] = []

    @classmethod
    async def open(
        cls, fleet: WebFleet, query: str = "", token: str = "read", last_id: str = ""
    ) -> "Stream":
        """Ask, and read the head of the answer, which must be a good one."""
        reader, writer = await asyncio.open_connection(*fleet.web)
        fleet.writers.append(writer)
        head = f"GET /api/v1/events{query} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {fleet.tokens[token]}\r\n"
        if last_id:
            head += f"Last-Event-ID: {last_id}\r\n"
        writer.write(f"{head}\r\n".encode())
        got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert b" 200 " in got.splitlines()[0] + b" ", got
        assert b"text/event-stream" in got, got
        return cls(reader, writer)

    async def next(self) -> dict[str, Any]:
        """Return the next event's document; chunk sizes and comments are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = (await self.reader.readuntil(b"\n")).decode()
                if line.startswith("data: "):
                    found: dict[str, Any] = json.loads(line[6:])
                    return found

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of a kind."""
        while True:
            event = await self.next()
            if event["kind"] == kind:
                return event

    def close(self) -> None:
        """Leave."""
        self.writer.close()
