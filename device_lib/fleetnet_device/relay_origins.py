"""Origins of a hub: which sensors it speaks for, by alias, and what it knows of each.

    Origins("/spool/origins", device)          "": nothing is kept
    origin = origins.of(name, serial, hello)   None: the table is full
    origins.know(name, serial, reason)         what the back-end said last; 0: it may come

A message on the flash names its sensor by the alias alone: the table is there before it is. File:
JSON [next alias, {name: [serial, reason]}, [[alias, name, serial, epoch, boot, offset_ms]]],
serials and epochs in hexadecimal, kept whole or not at all (saved.py).

Source: docs/protocol.md section 15.2.
"""

import json

from fleetnet.handshake import EPOCH_SIZE, NONCE_SIZE, Hello
from fleetnet.limits import MAX_SEQUENCE
from fleetnet.ports import port
from fleetnet.relay import MAX_ORIGINS, Announcement
from fleetnet_device import saved

# Sensors whose last answer is remembered while the back-end is away: 30 B of flash each.
MAX_KNOWN = 64

# Aliases that are left out when a table may be behind, and how far one begins that has none: an
# alias never means two sensors.
_SKIP = 4096
_RANDOM_BYTES = 3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Link(Protocol):
        """A sensor's link (relay_link.py)."""

        def welcome(self, capabilities: int, marks: "dict[int, int]") -> None: ...

        def refuse(self, reason: int, retry_after_ms: int, detail: str) -> None: ...

        def end(self, reason: int, retry_after_ms: int, detail: str) -> None: ...

        def send(self, stream: int, kind: int, body: bytes) -> None: ...

        def acknowledge(self, stream: int, seq: int) -> None: ...

        def set_window(self, window: int) -> None: ...


class Origin:
    """One sensor with one certificate, one epoch and one boot.

    Attributes:
        hello: its newest. heard_ms: this hub's uptime at that; None: in an earlier boot of the hub.
        offset_ms: unix time less its uptime; 0: not known.
        link: where it is connected, or asks to be. is_open: it was let in there.
        durable: stream -> number up to which the hub has acknowledged. taken: which it has.
        word: frame kind that is said until it is answered, 0: none; due: ticks of the next time.
        is_kept: it is in the file.
    """

    __slots__ = (
        "alias", "ask_until", "due", "durable", "heard_ms", "hello", "is_kept", "is_open", "link",
        "name", "offset_ms", "serial", "taken", "word",
    )  # fmt: skip

    def __init__(self, alias: int, name: str, serial: int, hello: Hello):
        self.alias = alias
        self.name = name
        self.serial = serial
        self.hello = hello
        self.heard_ms: "int | None" = None
        self.offset_ms = 0
        self.link: "Link | None" = None
        self.is_open = False
        self.durable: "dict[int, int]" = {}
        self.taken: "dict[int, int]" = {}
        self.word = 0
        self.due = 0
        self.ask_until = 0
        self.is_kept = False

    def announcement(self, clock: "Any") -> bytes:
        """Return the body of its HELLO as of now."""
        hello = self.hello
        age_ms = None
        uptime_ms = hello.uptime_ms
        if self.heard_ms is not None:
            age_ms = clock.uptime_ms() - self.heard_ms
            hello.uptime_ms += age_ms
        elif self.offset_ms and clock.unix_ms():
            hello.uptime_ms = max(clock.unix_ms() - self.offset_ms, 0)
        told = Announcement(self.name, self.serial, hello, age_ms if self.link else None)
        payload = told.to_payload()
        hello.uptime_ms = uptime_ms
        return payload


class Origins:
    """The table, and its file.

    Args:
        path: of the file; "": there is none.
        is_fresh: nothing on the flash can name an alias.
        report: called with (error, where).

    Attributes:
        by_alias: the origins. known: name -> (serial, reason of the last refusal or 0).
    """

    def __init__(self, path: str, is_fresh: bool, clock: "Any", report: "Any"):
        self._path = path
        self._clock = clock
        self._report = report
        self.by_alias: "dict[int, Origin]" = {}
        self.known: "dict[str, tuple[int, int]]" = {}
        self._next = 1
        is_loaded = self._load()
        if not is_fresh:
            # What is on the flash may name an alias that did not get into the table.
            self._next += _SKIP
            if not is_loaded:
                self._next = 1 + int.from_bytes(port.random_bytes(_RANDOM_BYTES), "big")

    def of(self, name: str, serial: int, hello: Hello) -> "Origin | None":
        """Return the origin of a HELLO, a new one when it is new; None: there is no room."""
        for origin in self.by_alias.values():
            known = origin.hello
            if (origin.name, origin.serial, known.epoch, known.boot) == (
                name, serial, hello.epoch, hello.boot,
            ):  # fmt: skip
                return origin
        if len(self.by_alias) >= MAX_ORIGINS:
            return None
        origin = self.by_alias[self._next] = Origin(self._next, name, serial, hello)
        self._next = self._next + 1 if self._next < MAX_SEQUENCE else 1
        return origin

    def forget(self, busy: "set[int]") -> None:
        """Forget origins that are not here and of which nothing is on its way."""
        for alias in list(self.by_alias):
            if alias not in busy and self.by_alias[alias].link is None:
                del self.by_alias[alias]

    def know(self, name: str, serial: int, reason: int) -> None:
        """Remember what the back-end said of a sensor."""
        if self.known.get(name) == (serial, reason):
            return
        if name not in self.known and len(self.known) >= MAX_KNOWN:
            here = [origin.name for origin in self.by_alias.values()]
            # Whoever is forgotten is not let in while the back-end is away.
            gone = [other for other in self.known if other not in here] or list(self.known)
            del self.known[gone[0]]
        self.known[name] = (serial, reason)
        self.save()

    def verdict(self, name: str, serial: int) -> "int | None":
        """Return the reason for which a sensor is refused, 0: it may come; None: not known."""
        known = self.known.get(name)
        return None if known is None or known[0] != serial else known[1]

    def keep(self, origin: Origin) -> None:
        """Put an origin into the file, before the first of its messages gets on the flash."""
        now_ms = self._clock.unix_ms()
        if now_ms:
            origin.offset_ms = now_ms - origin.hello.uptime_ms
        if self._path and not origin.is_kept:
            origin.is_kept = True
            origin.is_kept = self.save()

    def save(self) -> bool:
        """Write the file; False: there is none, or the flash failed."""
        if not self._path:
            return False
        rows = [
            [each.alias, each.name, "%x" % each.serial, each.hello.epoch.hex(), each.hello.boot,
             each.offset_ms]
            for each in self.by_alias.values() if each.is_kept
        ]  # fmt: skip
        known = {name: ["%x" % serial, reason] for name, (serial, reason) in self.known.items()}
        try:
            saved.write(self._path, json.dumps([self._next, known, rows]).encode())
        except OSError as error:
            self._report(error, "relay")
            return False
        return True

    def _load(self) -> bool:
        content = saved.read(self._path) if self._path else None
        if content is None:
            return False
        try:
            self._next, known, rows = json.loads(content)
            for name, (serial, reason) in known.items():
                self.known[name] = (int(serial, 16), reason)
            for alias, name, serial, epoch, boot, offset_ms in rows:
                hello = Hello()
                hello.epoch, hello.boot = bytes.fromhex(epoch), boot
                hello.nonce = port.random_bytes(NONCE_SIZE)
                if len(hello.epoch) != EPOCH_SIZE:
                    return False
                origin = self.by_alias[alias] = Origin(alias, name, int(serial, 16), hello)
                origin.offset_ms, origin.is_kept = offset_ms, True
        except (ValueError, TypeError):
            return False  # an older version's: what it named is announced no more
        return True
