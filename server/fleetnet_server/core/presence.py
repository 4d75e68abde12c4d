"""Who is here: the state of every device's session, and counters of what it brought.

Sessions tell of beginnings and ends. What happens with every message is counted by the peers
themselves, in plain attributes; nothing here is called for a message.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fleetnet import errors
from fleetnet.errors import FleetError
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.reasons import reason_text
from fleetnet.receiver import Gap
from fleetnet.ticks import ticks_diff
from fleetnet_server.core.events import Tell, tell_nobody
from fleetnet_server.core.transport import Transport
from fleetnet_server.identity.authenticate import Refusal

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

ONLINE, OFFLINE = "online", "offline"

# Why a handshake failed, in few words: the first that fits.
_REASONS: tuple[tuple[type[FleetError], str], ...] = (
    (errors.HandshakeTimeout, "timeout"),
    (errors.CertificateExpired, "certificate-expired"),
    (errors.CertificateNotYetValid, "certificate-not-yet-valid"),
    (errors.WrongCA, "unknown-ca"),
    (errors.TrustError, "not-trusted"),
    (errors.Rejected, "rejected-by-peer"),
    (errors.LinkError, "broken"),
)

# All that there are, for who counts them.
HANDSHAKE_REASONS = (*(text for _, text in _REASONS), "other")

# Refusals name whoever came; those that are no device of ours are counted, not listed.
_SOFTWARE = 64


class DevicePresence(NamedTuple):
    """What the running server knows of a device; times are unix ms.

    Attributes:
        state: "online" or "offline". link: "tls", "dtls", "hub", or "" while nothing is known.
        via: the hub that it came through last, "" for none.
        since_ms: when that state began; None: it was not here since the server's start.
        last_seen_ms: when its last bytes came. ended: why its last session ended.
        software: its own words in HELLO. boot: 0 when it does not tell.
        identity: number of the identity that it uses.
        messages, duplicates, lost: since the server's start: stored, come again, given up.
        sessions: how many it opened. lag_ms: age of its newest reading when that arrived.
        node: which of several servers has it; "": there is one.
    """

    state: str = OFFLINE
    link: str = ""
    address: str = ""
    since_ms: int | None = None
    last_seen_ms: int | None = None
    ended: str = ""
    software: str = ""
    boot: int = 0
    identity: int = 0
    is_quarantined: bool = False
    sessions: int = 0
    messages: int = 0
    duplicates: int = 0
    lost: int = 0
    lag_ms: int | None = None
    via: str = ""
    node: str = ""


class Watcher(Protocol):
    """What core/sessions.py tells of; ``Presence`` is one."""

    def opened(self, peer: "Peer", hello: Hello, transport: Transport | None) -> None: ...

    def ended(self, peer: "Peer", why: str) -> None: ...

    def refused(self, peer: "Peer", refusal: Refusal) -> None: ...

    def gave_up(self, peer: "Peer", gap: Gap) -> None: ...

    def handshake_done(self, kind: str) -> None: ...

    def handshake_refused(self, kind: str, error: FleetError) -> None: ...


@dataclass(slots=True)
class _Known:
    """One device: its session now, None: it has none, and the sums of the earlier ones."""

    peer: "Peer | None"
    shown: DevicePresence


class Presence:
    """The table of one back-end, by device name; as long as the registry is at most.

    Args:
        tell: hears of sessions and gaps (core/events.py).

    Attributes:
        online: sessions by link. opened, ended: sessions since the start.
        refused: by reason. handshakes: that succeeded, by link. handshakes_refused: by link and
            reason. lost: messages that devices gave up.
    """

    def __init__(self, tell: Tell = tell_nobody):
        self._tell = tell
        self._known: dict[str, _Known] = {}
        self.online: Counter[str] = Counter()
        self.opened_count = 0
        self.ended_count = 0
        self.refused_counts: Counter[str] = Counter()
        self.handshakes: Counter[str] = Counter()
        self.handshakes_refused: Counter[tuple[str, str]] = Counter()
        self.lost = 0

    # -- what is asked -----------------------------------------------------------------------

    def of(self, name: str) -> DevicePresence:
        """Return what is known of a device; all empty for one that never came."""
        known = self._known.get(name)
        return DevicePresence() if known is None else _now(known)

    def is_online(self, name: str) -> bool:
        """Say whether a device has a session."""
        known = self._known.get(name)
        return known is not None and known.peer is not None

    # -- what sessions tell, see Watcher -------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello, transport: Transport | None) -> None:
        """A session is open; an older one of the device is over."""
        known = self._known.get(peer.name)
        if known is None:
            known = self._known[peer.name] = _Known(None, DevicePresence())
        elif known.peer is not None:
            self._end(known, "another session took its place")
        link = transport.kind if transport is not None else "hub" if peer.via else ""
        known.peer = peer
        known.shown = known.shown._replace(
            state=ONLINE, link=link, address=peer.address, since_ms=_now_ms(), ended="",
            software=hello.software[:_SOFTWARE], boot=hello.boot, identity=hello.identity,
            is_quarantined=peer.is_quarantined, sessions=known.shown.sessions + 1,
            via=peer.via,
        )  # fmt: skip
        self.online[link] += 1
        self.opened_count += 1
        detail = {
            "link": link, "address": peer.address, "software": known.shown.software,
            "quarantined": peer.is_quarantined,
        }  # fmt: skip
        self._tell("session-opened", peer.name, detail)

    def ended(self, peer: "Peer", why: str) -> None:
        """A session that was open is over."""
        known = self._known.get(peer.name)
        if known is not None and known.peer is peer:
            self._end(known, why)

    def refused(self, peer: "Peer", refusal: Refusal) -> None:
        """A device got REFUSE."""
        reason = reason_text(refusal.reason)
        self.refused_counts[reason] += 1
        self._tell(
            "session-refused", refusal.name or None, {"reason": reason, "address": peer.address}
        )

    def gave_up(self, peer: "Peer", gap: Gap) -> None:
        """A device will never send these messages."""
        count = gap.last - gap.first + 1
        peer.lost += count
        self.lost += count
        self._tell("gap", peer.name, {"stream": gap.stream, "first": gap.first, "last": gap.last})

    def handshake_done(self, kind: str) -> None:
        """A TLS or DTLS handshake succeeded; whose it is comes next."""
        self.handshakes[kind] += 1

    def handshake_refused(self, kind: str, error: FleetError) -> None:
        """A TLS or DTLS handshake failed."""
        reason = next((text for sort, text in _REASONS if isinstance(error, sort)), "other")
        self.handshakes_refused[kind, reason] += 1

    def _end(self, known: _Known, why: str) -> None:
        self.online[known.shown.link] -= 1
        self.ended_count += 1
        shown = known.shown = _now(known)._replace(state=OFFLINE, since_ms=_now_ms(), ended=why)
        peer, known.peer = known.peer, None
        assert peer is not None
        self._tell("session-ended", peer.name, {"link": shown.link, "why": why})


def _now(known: _Known) -> DevicePresence:
    """Add what the session of now has counted."""
    shown, peer = known.shown, known.peer
    if peer is None:
        return shown
    return shown._replace(
        last_seen_ms=_now_ms() - max(0, ticks_diff(port.ticks(), peer.seen)),
        messages=shown.messages + peer.stored,
        duplicates=shown.duplicates + peer.duplicates,
        lost=shown.lost + peer.lost,
        lag_ms=peer.lag_ms,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
