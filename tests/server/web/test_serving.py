"""The listener itself: headers, bounds, and what clients do that are no friends."""

import asyncio
import json
import socket
import sqlite3
import time
from contextlib import suppress
from typing import Any

from fleetnet_server.web import headers, serving
from server.web.devices import online, until
from server.web.world import PATIENCE_S, Stream, WebFleet


async def test_names_that_are_not_ours_are_not_answered_to(fleet: WebFleet) -> None:
    """DNS rebinding: a page of another name whose address became ours."""
    host, port = fleet.web
    for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[evil]"):
        answer = await fleet.ask("GET", "/healthz", token=None, headers={"Host": name})
        assert answer.status == 421, name
        assert answer.headers["content-type"] == "application/problem+json"
        body = {"token": fleet.tokens["admin"]}
        login = await fleet.ask("POST", "/api/v1/session", body, token=None, headers={"Host": name})
        assert "set-cookie" not in login.headers
    for name in (f"{host}:{port}", "localhost", "LOCALHOST.:1", "10.1.2.3", "[::1]:80", "[::1]"):
        answer = await fleet.ask("GET", "/healthz", token=None, headers={"Host": name})
        assert answer.status == 200, name
    # No page of a stranger has a token; a scraper may use whatever name it has for us.
    named = await fleet.ask("GET", "/metrics", token="read", headers={"Host": "fleetnet:8080"})
    assert named.status == 200


async def test_every_answer_carries_the_headers_of_safety(fleet: WebFleet) -> None:
    for method, path in (("GET", "/healthz"), ("GET", "/nothing"), ("GET", "/api/v1/devices")):
        answer = await fleet.ask(method, path, token=None)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in answer.headers
    gone = await fleet.ask("GET", "/nothing")
    assert gone.status == 404
    assert gone.json["detail"] == "no such route: see /api/openapi.json"
    assert (await fleet.ask("PUT", "/healthz")).status == 405


async def test_a_request_that_is_too_large_is_not_read(fleet: WebFleet) -> None:
    path = "/api/v1/devices/cam-1/config"
    answer = await fleet.ask("PUT", path, b"x" * (129 << 10), token="config")
    assert answer.status == 413
    reader, writer = await asyncio.open_connection(*fleet.web)
    fleet.writers.append(writer)
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fleet.tokens['config']}\r\n"
    writer.write((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
    writer.write(b"".join(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" for _ in range(9)))
    line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    assert b" 413 " in line


async def test_a_head_that_does_not_come_ends_the_connection(fleet: WebFleet) -> None:
    slow = socket.create_connection(fleet.web, timeout=serving._HEAD_S + PATIENCE_S)
    began = time.monotonic()
    slow.sendall(b"GET /healthz HTTP/1.1\r\nHo")
    assert await asyncio.to_thread(slow.recv, 1) == b""
    slow.close()
    assert time.monotonic() - began > serving._HEAD_S / 2
    large = socket.create_connection(fleet.web, timeout=PATIENCE_S)
    large.sendall(b"GET /healthz HTTP/1.1\r\nA: " + b"a" * (40 << 10) + b"\r\n\r\n")
    got = await asyncio.to_thread(large.recv, 100)
    assert got == b"" or b" 400 " in got
    large.close()


async def test_a_body_that_does_not_come_ends_the_request(fleet: WebFleet) -> None:
    """Nobody needs a token for it: a few hundred would shut everybody out for ever."""
    slow = socket.create_connection(fleet.web, timeout=headers._BODY_S + PATIENCE_S)
    head = "POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n"
    slow.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
    assert b" 408 " in await asyncio.to_thread(slow.recv, 100)
    while await asyncio.to_thread(slow.recv, 4096):
        pass
    slow.close()


async def test_a_client_that_takes_no_answer_is_cut_off(fleet: WebFleet) -> None:
    _reader, writer = await asyncio.open_connection(*fleet.web, limit=1)
    fleet.writers.append(writer)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with suppress(ConnectionError):
        for _request in range(int(3 * serving._TAKE_S)):
            writer.write(request * 40)
            await writer.drain()
            await asyncio.sleep(1)
            if writer.transport.is_closing():
                break
    assert writer.transport.is_closing()


async def test_sigterm_ends_streams_and_the_process(fleet: WebFleet) -> None:
    stream = await Stream.open(fleet)
    async with online(fleet, "cam-1"):
        await stream.until("session-opened")
        took_s = await fleet.terminate_server()
    assert took_s < 25
    kinds = []
    while line := await asyncio.wait_for(stream.reader.readline(), PATIENCE_S):
        if line.startswith(b"data: "):
            kinds.append(json.loads(line[6:])["kind"])
    assert "session-ended" in kinds


async def test_a_reload_is_asked_for_by_http(fleet: WebFleet) -> None:
    answer = await fleet.ask("POST", "/api/v1/server/reload")
    assert answer.json == {"reloaded": True}
    # A row of the audit log is written with the next commit.
    (entry,) = await until(lambda: entries(fleet, "reload-asked"), lambda found: len(found) == 1)
    assert entry["actor"] == "token:admin"


async def entries(fleet: WebFleet, action: str) -> list[Any]:
    found: list[Any] = (await fleet.get(f"/api/v1/audit?action={action}"))["items"]
    return found


async def test_broken_certificates_take_no_metrics_away(fleet: WebFleet) -> None:
    (fleet.folder / "server" / "cert.der").write_bytes(b"nothing")
    metrics = await fleet.ask("GET", "/metrics", token="read")
    assert metrics.status == 200
    assert b"fleetnet_store_available 1.0" in metrics.body
    answer = await fleet.ask("GET", "/api/v1/certificates")
    assert answer.status == 503
    assert "Traceback" not in fleet.log()


async def test_a_server_without_the_port_serves_no_web(fleet: WebFleet) -> None:
    await fleet.terminate_server()
    was, fleet.web = fleet.web, ("127.0.0.1", 0)
    await fleet.start_server()
    with socket.socket() as probe:
        assert probe.connect_ex(was) != 0


async def test_a_store_that_cannot_be_written_is_not_ready(fleet: WebFleet) -> None:
    """Another program holds the file."""
    database = sqlite3.connect(fleet.store, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    try:
        # Something for the server to commit: a row of the audit log.
        await fleet.ask("GET", "/api/v1/session", token="nobody-knows")
        found = await until(
            lambda: fleet.ask("GET", "/readyz", token=None), lambda answer: answer.status == 503
        )
        assert "store cannot be written" in found.json["problems"][0]
        assert (await fleet.ask("GET", "/healthz", token=None)).status == 200
        # What only reads goes on.
        assert (await fleet.ask("GET", "/api/v1/devices")).status == 200
        refused = await fleet.ask("POST", "/api/v1/devices/cam-1/enable")
        assert refused.status == 503
        assert refused.headers["retry-after"] == "2"
    finally:
        database.execute("ROLLBACK")
        database.close()
    await until(
        lambda: fleet.ask("GET", "/readyz", token=None), lambda answer: answer.status == 200
    )
