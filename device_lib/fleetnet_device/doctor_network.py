"""The doctor's way to the server: name, port, TLS, DTLS, and the server's word; see doctor.py."""

import asyncio
import socket

from fleetnet.endpoint import Endpoint, open_link
from fleetnet.errors import (
    NORMAL,
    FleetError,
    HandshakeTimeout,
    LinkError,
    Rejected,
    Unreachable,
)
from fleetnet.events import Opened
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_device.doctor import BAD, OK, WARN
from fleetnet_device.limits import DTLS_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.credentials import Credentials, Server
    from fleetnet_device.doctor import Report

_NETWORK = "is the board's network up (WLAN key, cable, address)?"
_POLL_MS = 50
_POLLS = 20
_ASKS = 3


class _Owner:
    """What network.Part wants of a device."""

    def __init__(self, credentials: "Credentials"):
        self.credentials = credentials
        self.name = credentials.name


async def examine_network(report: "Report", credentials: "Credentials") -> bool:
    """Bring the network up where the bundle says how; False when there is none."""
    if not credentials.network:
        return True
    from fleetnet_device.network import Part

    owner: "Any" = _Owner(credentials)
    try:
        await Part(owner).up()
    except FleetError as error:
        report.add(BAD, "network", str(error), '"network" in config.json')
        return False
    report.add(OK, "network", "up")
    return True


class Way:
    """The way to one server, looked at step by step.

    Args:
        identity: number of the identity in force; 0: the bundle's.
        is_pinned: the server is to be known by its public key.
        timeout_ms: for each connection.
    """

    def __init__(
        self,
        report: "Report",
        credentials: "Credentials",
        server: "Server",
        identity: int,
        is_pinned: bool,
        timeout_ms: int,
    ):
        self._report = report
        self._credentials = credentials
        self._server = server
        self._identity = identity
        self._is_pinned = is_pinned
        self._timeout_ms = timeout_ms
        self._has_tls = False

    async def examine(self) -> None:
        """Look; what rests on a step that failed is left out."""
        transport = self._credentials.transport
        if not self._resolve():
            return
        if await self._reach():
            self._has_tls = await self._connect(False, self._timeout_ms)
        if transport != "tls":
            is_first = transport == "auto"
            await self._connect(
                True, min(self._timeout_ms, DTLS_MS) if is_first else self._timeout_ms
            )

    def _resolve(self) -> bool:
        host = self._server.host
        try:
            socket.getaddrinfo(host, self._server.tls_port)
        except (OSError, UnicodeError) as error:
            text = "%s has no address here (%r)" % (host, error)
            remedy = _NETWORK + " Else name the server by its address"
            self._report.add(BAD, "name", text, remedy)
            return False
        self._report.add(OK, "name", "%s resolves" % host)
        return True

    async def _reach(self) -> bool:
        """Open the TCP port and close it again."""
        host, number = self._server.host, self._server.tls_port
        try:
            stream = await port.open_stream(host, number, None, timeout_ms=self._timeout_ms)
            stream.close()
        except FleetError as error:
            remedy = "is `fleetnet serve` running there, is the port right and open in firewalls?"
            # A device that uses DTLS only is told, not blamed.
            level = WARN if self._credentials.transport == "dtls" else BAD
            self._report.add(level, "tcp", str(error), remedy)
            return False
        self._report.add(OK, "tcp", "%s:%d accepts connections" % (host, number))
        return True

    async def _connect(self, datagram: bool, timeout_ms: int) -> bool:
        """Shake hands and ask whether this device would be taken; say whether it would."""
        check = "dtls" if datagram else "tls"
        report, name = self._report, self._credentials.name
        try:
            cipher = await self._ask(datagram, timeout_ms)
        except Rejected as error:
            from fleetnet_device.doctor_remedies import for_rejected

            if error.reason is not None:
                report.add(OK, check, "the handshake is complete")
                check = "session"
            report.add(BAD, check, str(error), for_rejected(error, name))
            return False
        except Exception as error:
            from fleetnet_device.doctor_remedies import for_error

            remedy = ""
            if datagram and isinstance(error, (HandshakeTimeout, Unreachable)):
                remedy = await _explain_silence(self._server, error, self._has_tls)
            text = "%s: %s" % (type(error).__name__, error)
            report.add(self._blame(check, error), check, text, remedy or for_error(error, name))
            return False
        report.add(OK, check, "%s, %s" % cipher if cipher else "the handshake is complete")
        text = "%s would take %s over %s" % (self._server.host, name, check.upper())
        report.add(OK, "session", text)
        return True

    def _blame(self, check: str, error: Exception) -> str:
        """Return the level: WARN where the device has no need of this way, or has another."""
        if self._credentials.transport == "auto":
            has_other = self._has_tls and isinstance(error, LinkError)
            return WARN if check == "dtls" and has_other else BAD
        return BAD if self._credentials.transport == check else WARN

    async def _ask(self, datagram: bool, timeout_ms: int) -> "tuple[str, str] | None":
        """Ask the server whether it would open a session, on a connection of its own.

        Returns:
            (cipher suite, protocol version), or None where the firmware does not tell.

        Raises:
            Whatever connecting raises; Rejected: it would not.
        """
        server = self._server
        number = server.dtls_port if datagram else server.tls_port
        context = self._credentials.context(datagram, self._is_pinned)
        link = await open_link(server.host, number, context, server.server_hostname, timeout_ms)
        hello = Hello()
        hello.probe = 1
        hello.identity = self._identity
        session = Session(port.random_bytes)
        session.open_link(port.ticks(), link.datagram, hello)
        ciphers: "list[tuple[str, str] | None]" = []

        def on_event(event: object) -> None:
            ciphers.append(link.cipher())
            if isinstance(event, Opened):  # a server that does not know the question
                session.bye(port.ticks())

        try:
            await Endpoint(session, link, on_event, timeout_ms).run()
        except Rejected as error:
            if error.reason != NORMAL:
                raise
        return ciphers[0] if ciphers else None


async def _explain_silence(server: "Server", error: Exception, has_tls: bool) -> str:
    """Say what a DTLS handshake without end is due to."""
    what = "UDP port %d" % server.dtls_port
    if await answers_udp(server.host, server.dtls_port):
        return (
            "%s answers a small datagram, so the large ones of the handshake are lost: lower the "
            "MTU of the router or VPN on the way to 1280 or more, do not drop fragments" % what
        )
    if isinstance(error, Unreachable):
        return "nothing listens on %s: is the port right, is DTLS served there?" % what
    if has_tls:
        return (
            "UDP does not pass: open %s in the firewalls on the way, or set transport to tls" % what
        )
    return "nothing answers on %s: is the server running, is UDP open on the way?" % what


async def answers_udp(host: str, number: int) -> bool:
    """Send a DTLS ClientHello without cookie, 67 B; say whether anything comes back.

    The answer, a HelloVerifyRequest, is as small (RFC 6347 section 4.2.1): it passes where the
    certificates, more than 1,000 B of them, do not.
    """
    info = socket.getaddrinfo(host, number, 0, socket.SOCK_DGRAM)[0]
    sock = socket.socket(info[0], socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(info[-1])
        for _ in range(_ASKS):
            sock.send(_client_hello())
            for _ in range(_POLLS):
                await port.sleep_ms(_POLL_MS)
                try:
                    if sock.recv(1):
                        return True
                except OSError as error:
                    if error.args[0] not in (11, 35, 10035):  # EAGAIN of the ports
                        return False
    except (OSError, asyncio.TimeoutError):
        pass
    finally:
        sock.close()
    return False


def _client_hello() -> bytes:
    """Lay out a ClientHello of DTLS 1.2 (RFC 6347 sections 4.1 and 4.2.2)."""
    # version, random, no session, no cookie, ECDHE-ECDSA-AES128-GCM-SHA256, no compression
    body = b"\xfe\xfd" + port.random_bytes(32) + b"\0\0\0\2\xc0\x2b\1\0"
    size = bytes((0, 0, len(body)))
    message = b"\1" + size + b"\0\0" + b"\0\0\0" + size + body
    return b"\x16\xfe\xfd" + bytes(8) + bytes((0, len(message))) + message
