"""The server's log: one line a record, one form, one line for each security decision."""

import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from fleetnet_device import Device
from fleetnet_server.log_output import configure_logging, make_formatter
from server.web.devices import HOSTILE, online, until
from server.web.world import WebFleet

TOKEN = "fnt_" + "A" * 32
PLAIN = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info|warning|error|critical) +[a-z._]+  \S.*|    .*"
)


class Talking(WebFleet):
    """A fleet whose server logs everything."""

    def command(self, *arguments: str) -> list[str]:
        return super().command(*(one for one in arguments if one != "--quiet"))


@pytest.fixture
def root() -> Iterator[None]:
    """The loggers of this process are as they were, afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    try:
        yield
    finally:
        logger.handlers[:], logger.level = handlers, level
        logging.captureWarnings(False)
        structlog.reset_defaults()


def say_everything(as_json: bool) -> list[str]:
    out = io.StringIO()
    configure_logging(as_json, quiet=False, stream=out)
    structlog.get_logger("fleetnet.sessions").warning("device refused", device="cam-1", why=HOSTILE)
    structlog.get_logger("fleetnet").debug("not shown")
    logging.getLogger("fleetnet.store").error("%s; compaction waits", HOSTILE)
    logging.getLogger("uvicorn.error").info("Shutting down")  # noise at each end: not shown
    logging.getLogger("uvicorn.error").warning("token %s", TOKEN)
    structlog.get_logger("fleetnet").info("made", token=TOKEN, claim_token="AAAA", number=2)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("fleetnet.web").exception("failed")
        structlog.get_logger("fleetnet.web").error("failed", exc_info=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("something is old", UserWarning, stacklevel=1)
    return out.getvalue().splitlines()


@pytest.mark.usefixtures("root")
def test_both_libraries_write_one_json_object_a_line() -> None:
    lines = [json.loads(line) for line in say_everything(as_json=True)]
    assert [(line["level"], line["logger"], line["event"]) for line in lines[:4]] == [
        ("warning", "fleetnet.sessions", "device refused"),
        ("error", "fleetnet.store", f"{HOSTILE}; compaction waits"),
        ("warning", "uvicorn.error", "token ***"),
        ("info", "fleetnet", "made"),
    ]
    assert lines[0]["why"] == HOSTILE
    assert (lines[3]["token"], lines[3]["claim_token"], lines[3]["number"]) == ("***", "***", 2)
    for line in lines[4:6]:
        assert "Traceback" in line["exception"]
        assert "ValueError" in line["exception"]
    assert lines[6]["logger"] == "py.warnings"
    assert len(lines) == 7
    assert all(list(line)[:4] == ["timestamp", "level", "logger", "event"] for line in lines)


@pytest.mark.usefixtures("root")
def test_both_libraries_write_one_shape_for_people() -> None:
    lines = say_everything(as_json=False)
    for line in lines:
        assert line.isprintable(), line
        assert PLAIN.fullmatch(line), line
    assert lines[0].endswith("device refused device=cam-1 why=" + lines[0].partition("why=")[2])
    assert "\\x1b[2J" in lines[1]
    assert TOKEN not in "\n".join(lines)
    assert sum("Traceback" in line for line in lines) == 2


def test_colours_only_where_they_are_wanted() -> None:
    record = logging.LogRecord("fleetnet", logging.ERROR, "", 0, "x", (), None)
    assert "\x1b[31m" in make_formatter(as_json=False, is_colored=True).format(record)
    assert "\x1b" not in make_formatter(as_json=False).format(record)


def lines_of(fleet: WebFleet) -> list[dict[str, Any]]:
    """Those that are whole: the server may be in the middle of the next one."""
    return [json.loads(line) for line in fleet.log().rpartition("\n")[0].splitlines()]


async def test_every_security_decision_is_one_line_without_secrets(tmp_path: Path) -> None:
    fleet = Talking(tmp_path / "fleet")
    try:
        await fleet.start_server()
        await decide(fleet)
        await until(
            lambda: asyncio.sleep(0.05, lines_of(fleet)),
            lambda lines: any(line["event"] == "device refused" for line in lines),
        )
        await fleet.terminate_server()
        lines = lines_of(fleet)
        found = {line["event"]: line for line in lines}
        expected = {
            "session opened": {"device": "cam-1", "link": "tls"},
            "handshake refused": {"link": "tls", "address": "127.0.0.1"},
            "device refused": {"device": "cam-1", "reason": "device is disabled"},
            "token refused": {"address": "127.0.0.1"},
            "request denied": {"actor": "token:read", "scope": "admin", "method": "GET"},
            "request allowed": {"actor": "token:admin", "scope": "admin", "method": "POST"},
            "cookie refused: not our page": {"origin": "http://evil.example"},
            "logged in": {"actor": "token:admin"},
        }
        for event, detail in expected.items():
            assert detail.items() <= found[event].items(), (event, found.get(event))
        loggers = {line["logger"] for line in lines}
        assert {"fleetnet", "fleetnet.web", "fleetnet.sessions", "uvicorn.error"} <= loggers
        for event in ("token refused", "request denied"):
            # Again and again is one line a minute.
            assert sum(line["event"] == event for line in lines) == 1
        assert not any(token in fleet.log() for token in fleet.tokens.values())
        assert TOKEN not in fleet.log()
    finally:
        await fleet.close()


async def decide(fleet: WebFleet) -> None:
    """Let the server decide on everything."""
    async with online(fleet, "cam-1"):
        pass
    for _ in range(3):
        await fleet.ask("GET", "/api/v1/devices", token=TOKEN)
        await fleet.ask("GET", "/api/v1/audit", token="read")
    body = {"token": fleet.tokens["admin"]}
    await fleet.ask("POST", "/api/v1/session", body, token=None)
    evil = {"Origin": "http://evil.example", "Cookie": f"fleetnet_token={fleet.tokens['admin']}"}
    await fleet.ask("POST", "/api/v1/devices/cam-1/enable", token=None, headers=evil)
    await fleet.ask("POST", "/api/v1/devices/cam-1/disable")
    async with Device(str(fleet.devices_folder / "cam-1")):
        await until(lambda: asyncio.sleep(0.05, fleet.log()), lambda text: "device refused" in text)
    _, to_devices = await asyncio.open_connection(*fleet.tls)
    to_devices.write(b"GET / HTTP/1.0\r\n\r\n")
    _, to_web = await asyncio.open_connection(*fleet.web)
    to_web.write(b"\x16\x03\x01\x00\x00\r\n\r\n")
    await until(
        lambda: asyncio.sleep(0.05, fleet.log()),
        lambda text: "handshake refused" in text and "uvicorn.error" in text,
    )
    to_devices.close()
    to_web.close()
