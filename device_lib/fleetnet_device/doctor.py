"""A doctor for the board's prompt: what keeps this board from its server, and what helps.

    from fleetnet_device.doctor import run
    run("bundle")

prints a line for each finding, then ``fleetnet-doctor: {...}``, and never raises. It looks at
the bundle, the clock, the heap, the name, the port, TLS, DTLS, and whether the server would take
this device. The last is only asked (docs/protocol.md section 14): a session that this device has
elsewhere goes on, and nothing is stored. No private value is printed.

    ok    bundle: cam-01, certificate of 492 B until 2028-02-24
    BAD   tls: fleet.example.org:8443: its certificate does not lead to our trust anchor
          -> make the bundle again on that server
"""

import asyncio
import gc
import json

import fleetnet
from fleetnet.errors import FleetError
from fleetnet.ports import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fleetnet_device.credentials import Credentials

MARK = "fleetnet-doctor: "

OK = "ok"
WARN = "warn"  # it works, or another way does
BAD = "bad"

# What mbedTLS asks of the heap where it lives on it: 27.6 KB for a session with P-256, of that
# one block of 16.7 KB for what comes in (docs/memory.md); and some for the program.
_SESSION_BYTES = 40_000
_BLOCK_BYTES = 17_408


# Printed where not even the findings find room: made here, as nothing can be made then.
_NO_ROOM = (
    "BAD   heap: no memory left for the doctor itself\n      -> run it right after a reset\n"
    + MARK
    + '{"ok": false, "level": "bad", "name": "", "firmware": "", "library": "", "findings": '
    '[{"check": "heap", "level": "bad", "text": "no memory left for the doctor itself", '
    '"remedy": "run it right after a reset"}]}'
)


class Report:
    """Findings in their order.

    Args:
        say: function called with each finding as a line of text, at once.
    """

    def __init__(self, say: "Callable[[str], object]"):
        self.findings: "list[dict[str, str]]" = []
        self._say = say

    def add(self, level: str, check: str, text: str, remedy: str = "") -> None:
        """Take a finding. ``check`` names what was looked at, ``remedy`` what helps."""
        self.findings.append({"check": check, "level": level, "text": text, "remedy": remedy})
        line = "%-5s %s: %s" % (level.upper() if level != OK else level, check, text)
        self._say(line + ("\n      -> " + remedy if remedy else ""))

    def has_bad(self, check: str) -> bool:
        """Say whether something bad was found there."""
        return any([each["check"] == check and each["level"] == BAD for each in self.findings])

    def worst(self) -> str:
        levels = [each["level"] for each in self.findings]
        return BAD if BAD in levels else WARN if WARN in levels else OK


def run(bundle: "str | dict[str, Any]", timeout_ms: int = 10_000, spool: str = "") -> None:
    """Look at everything, print the findings and the line for programs.

    Args:
        bundle: the folder that `fleetnet device add` made.
        timeout_ms: for each connection.
        spool: the folder of Device(spool=...), if the program has one: renewed certificates lie
            there. Nothing else of it is looked at.
    """
    try:
        print(MARK + json.dumps(asyncio.run(check(bundle, timeout_ms, spool, print))))
    except MemoryError:
        print(_NO_ROOM)


async def check(
    bundle: "str | dict[str, Any]",
    timeout_ms: int = 10_000,
    spool: str = "",
    say: "Callable[[str], object]" = lambda line: None,
) -> "dict[str, Any]":
    """Look at everything; return what to print.

    Keys: ok (nothing is bad), level (the worst), name (of the device, or ""), firmware, library
    (version), findings: objects with check ("bundle", "clock", "heap", "network", "name", "tcp",
    "tls", "dtls", "session"), level ("ok", "warn", "bad"), text and remedy ("" when none is
    needed).
    """
    report = Report(say)
    credentials: "Credentials | None" = None
    try:
        from fleetnet_device.doctor_bundle import examine_bundle, examine_clock

        credentials, identity = examine_bundle(report, bundle, spool)
        if credentials is not None:
            is_pinned = examine_clock(report, credentials)
            examine_heap(report)
            from fleetnet_device.doctor_network import Way, examine_network

            if await examine_network(report, credentials):
                for server in credentials.servers:
                    way = Way(report, credentials, server, identity, is_pinned, timeout_ms)
                    await way.examine()
    except MemoryError:
        gc.collect()
        report.add(BAD, "heap", "no memory left: MemoryError", _HEAP_REMEDY)
    except Exception as error:
        # Nothing that it meets may stop it from telling what it has found.
        remedy = "" if isinstance(error, FleetError) else "this is a bug of fleetnet: report it"
        report.add(BAD, "doctor", "%s: %s" % (type(error).__name__, error), remedy)
    return {
        "ok": report.worst() != BAD,
        "level": report.worst(),
        "name": credentials.name if credentials is not None else "",
        "firmware": port.platform_text(),
        "library": fleetnet.__version__,
        "findings": report.findings,
    }


_HEAP_REMEDY = (
    "connect before the program fills the heap, install .mpy instead of .py, leave parts out "
    "(docs/memory.md)"
)


def examine_heap(report: Report) -> None:
    """Say whether a TLS connection would find room. CPython has no such ceiling."""
    gc.collect()
    if not hasattr(gc, "mem_free"):
        report.add(OK, "heap", "this interpreter's has no ceiling")
        return
    free = gc.mem_free()
    text = ""
    try:
        block = bytearray(_BLOCK_BYTES)
        del block
    except MemoryError:
        text = "but no block of %d B, which TLS needs where it lives on this heap" % _BLOCK_BYTES
    gc.collect()
    if not text and free < _SESSION_BYTES:
        text = "where TLS lives on this heap it wants %d B" % _SESSION_BYTES
    # Some firmwares keep TLS elsewhere: only the handshake can tell.
    if text:
        report.add(WARN, "heap", "%d B are free, %s" % (free, text), _HEAP_REMEDY)
    else:
        report.add(OK, "heap", "%d B are free" % free)
