"""What the back-end does with a session besides storing: commands, configuration, blobs.

A service declares frame kinds. Sequenced messages of these kinds are stored like readings,
and the service hears of each once it is durable; best-effort frames reach it at once. A
service that fails is logged and disturbs neither the session nor the other services.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from fleetnet.events import Received
from fleetnet.frame import OPTIONAL
from fleetnet.handshake import Hello
from fleetnet_server.core.bodies import Message

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.services")


class Service(Protocol):
    """One ability of the back-end; all calls come on the event loop and must not block.

    Attributes:
        capability: CAN_* bits that WELCOME offers for it (docs/protocol.md section 4.3).
        kinds: frame kinds whose sequenced messages it wants to hear of, without OPTIONAL.
        live_kinds: kinds that it takes as best-effort frames, without OPTIONAL.
    """

    capability: int
    kinds: frozenset[int]
    live_kinds: frozenset[int]

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """A device's session is open."""

    def received(self, peer: "Peer", event: Received) -> None:
        """A best-effort frame of one of ``live_kinds`` arrived."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """A sequenced message of one of ``kinds`` was stored; called once for each."""

    def closed(self, peer: "Peer") -> None:
        """The session is over."""


class Services:
    """The services of one back-end; calls those that want to hear.

    Attributes:
        kinds: of all of them, as messages have them: with the optional bit and without.
        capabilities: of all of them.
    """

    def __init__(self, services: Iterable[Service]):
        self._all = tuple(services)
        # With and without the optional bit: messages keep it, and it changes nothing for who
        # knows the kind.
        self._by_kind = {
            kind | bit: service
            for service in self._all
            for kind in service.kinds
            for bit in (0, OPTIONAL)
        }
        self._by_live_kind = {kind: service for service in self._all for kind in service.live_kinds}
        self.kinds = frozenset(self._by_kind)
        self.capabilities = 0
        for service in self._all:
            self.capabilities |= service.capability

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """See Service."""
        for service in self._all:
            try:
                service.opened(peer, hello)
            except Exception:
                _log.exception("%r failed at the start of %s", service, peer.name)

    def received(self, peer: "Peer", event: Received) -> None:
        """See Service; a kind that nobody knows was best effort and is dropped."""
        service = self._by_live_kind.get(event.kind & ~OPTIONAL)
        if service is not None:
            try:
                service.received(peer, event)
            except Exception:
                _log.exception("%r failed on a frame of %s", service, peer.name)

    def durable(self, peer: "Peer", message: Message) -> None:
        """See Service."""
        try:
            self._by_kind[message.kind].durable(peer, message)
        except Exception:
            _log.exception("message %d of %s was not acted upon", message.seq, peer.name)

    def closed(self, peer: "Peer") -> None:
        """See Service."""
        for service in self._all:
            try:
                service.closed(peer)
            except Exception:
                _log.exception("%r failed at the end of %s", service, peer.name)
