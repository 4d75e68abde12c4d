"""Requests made from the server's own OpenAPI document, good, odd and hostile: never a 500.

Every answer has a status and a media type that the document promises.
"""

import asyncio
import random
import re
from collections import Counter
from typing import Any
from urllib.parse import quote

from server.web.world import PATIENCE_S, Answer, WebFleet

SEED = 5
# 1,200 requests, some 8 s: half of what they find, the first hundred find.
ROUNDS = 30

TEXTS = (
    "", "cam-1", "nobody", "..", "../../etc/passwd", "%2e%2e", "\x00", "a\r\nX-Y: z", "\u202e",
    "<script>", "'; DROP TABLE devices; --", "\ud800", "é" * 40, "x" * 5000, "null", "-1", "1e999",
)  # fmt: skip
NUMBERS = (0, 1, -1, 7, 1000, 1001, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400)
ODD = (None, True, [], {}, "", 1.5, 1e308, [[]], {"a": {"b": []}}, "\ud800", 10**400, -0.0)
CURSORS = ("W10", "WyJkZXZpY2VzIl0", "WyJyZWFkaW5ncyIsLTEsLTFd", "bnVsbA", "e30", "====", "A" * 300)


class Maker:
    """Values that fit a schema, or nearly."""

    def __init__(self, page: dict[str, Any], dice: random.Random):
        self._schemas = page["components"]["schemas"]
        self.dice = dice

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        dice = self.dice
        if "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if dice.random() < 0.1:
            return dice.choice((*ODD, *TEXTS, *NUMBERS))
        if "anyOf" in schema:
            return self.value(dice.choice(schema["anyOf"]), depth)
        if "enum" in schema:
            return dice.choice((*schema["enum"], dice.choice(TEXTS)))
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            items = schema.get("items", {})
            return [self.value(items, depth + 1) for _ in range(dice.randrange(4))]
        if kind in ("integer", "number"):
            return dice.choice((*NUMBERS, schema.get("minimum", 0), schema.get("maximum", 1)))
        if kind == "boolean":
            return dice.choice((True, False))
        if kind == "null":
            return None
        if kind == "string":
            return dice.choice(("cam-1", "enabled", "read", *TEXTS))
        return dice.choice(ODD)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        found = {
            name: self.value(one, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if name in schema.get("required", ()) or self.dice.random() < 0.5
        }
        if not schema.get("properties") or self.dice.random() < 0.1:
            found[self.dice.choice(TEXTS)] = self.dice.choice(ODD)
        if depth == 0 and self.dice.random() < 0.05:
            deep: Any = 1
            for _ in range(self.dice.choice((20, 100, 900))):
                deep = [deep]
            found["document"] = {"deep": deep}
        return found


def request_of(maker: Maker, path: str, item: dict[str, Any]) -> dict[str, Any]:
    """Make the arguments of WebFleet.ask for an operation."""
    dice = maker.dice
    query: list[tuple[str, Any]] = []
    for parameter in item.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        if parameter["in"] == "path":
            value = "cam-1" if dice.random() < 0.5 else maker.value(schema)
            text = str(value).encode(errors="surrogatepass")
            path = path.replace("{" + name + "}", quote(text, safe="") or "%00")
        elif parameter["in"] == "query" and dice.random() < 0.5:
            value = dice.choice(CURSORS) if name == "cursor" else maker.value(schema)
            for one in value if isinstance(value, list) else [value]:
                query.append((name, str(one)))
    made: dict[str, Any] = {"path": path, "query": query}
    if "requestBody" in item:
        body = maker.value(item["requestBody"]["content"]["application/json"]["schema"])
        if dice.random() < 0.1:
            body = dice.choice(
                (b"", b"{", b"\xff\xfe", b"[" * 50_000, b'{"name":NaN}', b"x" * 200_000)
            )
        elif isinstance(body, dict) and "wait_s" in body:
            body["wait_s"] = 0
        made["body"] = body
    return made


def check(page: dict[str, Any], route: str, item: dict[str, Any], answer: Answer) -> None:
    assert answer.status < 500 or answer.status in (503, 504), (route, answer)
    promised = item["responses"]
    # What holds before a route is chosen, or its body is read.
    if answer.status in (404, 405, 413):
        assert answer.headers["content-type"] == "application/problem+json", (route, answer)
        return
    assert str(answer.status) in promised, (route, answer)
    kinds = promised[str(answer.status)].get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kinds and "*/*" not in kinds:
        assert kind in kinds, (route, answer)
    assert "content-security-policy" in answer.headers


def tokens(fleet: WebFleet) -> list[str | None]:
    """One of each scope, by names that no request guesses; half of the requests may do all."""
    scopes = ("read", "command", "config", "admin")
    for scope in scopes:
        fleet.tokens[f"the-{scope}"] = fleet.add_token(f"the-{scope}", scope)
    return [None, *(f"the-{scope}" for scope in scopes), *(["the-admin"] * 4)]


async def test_no_request_makes_a_500(fleet: WebFleet) -> None:
    page = await fleet.get("/api/openapi.json", token=None)
    fleet.add_device("cam-1", "tls")
    holders = tokens(fleet)
    maker = Maker(page, random.Random(SEED))
    statuses: Counter[int] = Counter()
    reached: set[str] = set()
    routes = [
        (method.upper(), path, item)
        for path, one in page["paths"].items()
        for method, item in one.items()
        # Has no end; test_events.py reads it.
        if path != "/api/v1/events"
    ]
    assert len(routes) > 35
    for _ in range(ROUNDS):
        for method, path, item in routes:
            made = request_of(maker, path, item)
            if method == "DELETE" and made["path"] == "/api/v1/devices/cam-1":
                continue  # the others would have nothing to find
            token = maker.dice.choice(holders)
            answer = await fleet.ask(method, token=token, **made)
            statuses[answer.status] += 1
            if answer.status < 300:
                reached.add(f"{method} {path}")
            check(page, f"{method} {made} {token}", item, answer)
    # It went deep enough to be worth it.
    assert min(statuses[200], statuses[422], statuses[401], statuses[403]) > 50, statuses
    assert len(reached) > 25, reached
    assert "Traceback" not in fleet.log()


async def test_odd_wishes_for_events_are_refused(fleet: WebFleet) -> None:
    for query in ("kind=nothing", "kind=alarm&" * 20, "device=A%20b", "device=" + "x" * 200):
        answer = await fleet.ask("GET", f"/api/v1/events?{query}", token="read")
        assert answer.status == 422, query
    answer = await fleet.ask("GET", "/api/v1/events", headers={"Last-Event-ID": "x" * 65})
    assert answer.status == 422


def raw_requests(token: str) -> list[bytes]:
    """What no library would send."""
    head = f"GET /api/v1/devices HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    put = head.replace("GET /api/v1/devices", "PUT /api/v1/devices/cam-1/config").encode()
    get = head.encode()
    chunked = put + b"Transfer-Encoding: chunked\r\n"
    return [
        b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"\x00" * 200,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /healthz\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET //../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /static/../app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/devices/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        get + b"A: " + b"b" * 20_000 + b"\r\n\r\n", get + b"A: b\r\n" * 5000 + b"\r\n",
        get + b"Bad Name: 1\r\n\r\n", get + b"A: \x00\x01\xff\r\n\r\n", get + b" folded\r\n\r\n",
        get + b"Host: evil.example\r\n\r\n", get + b"Range: bytes=-1,0-,\xff\r\n\r\n",
        get + b"Cookie: fleetnet_token=\xff; ; =;\r\n\r\n", get + b"Upgrade: websocket\r\n\r\n",
        get + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
        get + b"Content-Length: -1\r\n\r\n", get + b"Content-Length: 1e3\r\n\r\n",
        put + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        put + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        put + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        put + b"Content-Length: 99999999999999999999\r\n\r\n{}", chunked + b"\r\nzz\r\n{}\r\n",
        chunked + b"\r\n-5\r\n{}\r\n", chunked + b"\r\nffffffffffffffffff\r\n{}\r\n",
        chunked + b"\r\n2;" + b"x" * 30_000 + b"\r\n{}\r\n0\r\n\r\n",
        put + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        put + b"Content-Type: application/json; charset=utf-7\r\nContent-Length: 2\r\n\r\n{}",
        put + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        get + b"\r\n" + get + b"\r\n" + b"garbage\r\n\r\n",
    ]  # fmt: skip


async def send_raw(fleet: WebFleet, request: bytes) -> bytes:
    """Send it, send no more, and return what comes until the end."""
    reader, writer = await asyncio.open_connection(*fleet.web)
    try:
        writer.write(request)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_bytes_that_are_no_http_do_no_harm(fleet: WebFleet) -> None:
    fleet.add_device("cam-1", "tls")
    dice = random.Random(SEED)
    requests = raw_requests(fleet.tokens["admin"])
    for _ in range(300):
        mangled = bytearray(dice.choice(requests)[:4000])
        for _ in range(dice.choice((1, 3, 20))):
            mangled[dice.randrange(len(mangled))] = dice.randrange(256)
        requests.append(bytes(mangled[: dice.choice((len(mangled), dice.randrange(1, 200)))]))
    statuses: Counter[bytes] = Counter()
    for request in requests:
        answer = await send_raw(fleet, request)
        # Of each answer, of which there may be several: HTTP/1.1 STATUS REASON.
        found = re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)
        assert not any(status >= b"500" for status in found), (request, answer)
        assert not answer or found, (request, answer)
        assert b"root:" not in answer
        assert b"import " not in answer
        statuses.update(found)
    assert statuses[b"400"] > 100, statuses
    assert statuses[b"200"] > 5, statuses
    assert (await fleet.ask("GET", "/healthz", token=None)).status == 200
    assert "Traceback" not in fleet.log()
    assert fleet.tokens["admin"] not in fleet.log()
