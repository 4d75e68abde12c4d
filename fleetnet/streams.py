"""TLS and DTLS with the same calls on MicroPython and CPython.

    reader, writer = await open_connection(host, port, ssl=context, server_hostname=...)
    server = await start_server(callback, host, port, ssl=context)
    association = await open_dtls(host, port, ssl=context, server_hostname=...)
    listener = await serve_dtls(callback, host, port, ssl=context)

Contexts come from client_context and server_context. What differs between the runtimes
is in ports/.
"""

from fleetnet.errors import Unsupported
from fleetnet.ports import port as runtime

_READ_BYTES = 4096

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fleetnet.ports.cpython import (
        AcceptedDatagrams,
        Context,
        DatagramListener,
        Datagrams,
        Listener,
    )
    from fleetnet.ports.cpython import Stream as RawStream

    Source = str | bytes
    Keys = dict[str | bytes, bytes] | Callable[[bytes], bytes | None]

_has_warned = False


def client_context(
    ca: "Source | list[Source] | None" = None,
    cert: "Source | None" = None,
    key: "Source | None" = None,
    *,
    datagram: bool = False,
    insecure: bool = False,
    pins: "list[str | bytes] | None" = None,
    psk: "tuple[str | bytes, bytes] | None" = None,
    ciphers: "list[str] | None" = None,
) -> "Context":
    """Make a context for connecting.

    Args:
        ca: trust anchor: path (str) or bytes, DER or PEM, or a list of several. A root, an
            intermediate or the server's own certificate. None: the system's store on
            CPython; an error on MicroPython, which has none.
        cert, key: this side's certificate and private key, path or bytes, DER or PEM.
        datagram: for DTLS.
        insecure: encryption only; anybody may answer, and nothing tells you.
        pins: SHA-256 of the SubjectPublicKeyInfo of the server (32 bytes, or 64 hexadecimal
            digits each). The server is whoever holds one of these keys: needs no CA and no
            clock. WrongPin otherwise, before a byte of the program has left.
        psk: (identity, key): both ends share ``key``, and nobody needs a certificate.
        ciphers: cipher suites to allow, named as mbedTLS names them
            ("TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"), see Context.get_ciphers.

    Raises:
        CredentialError: a file cannot be read or used, or two arguments exclude each
            other, with the remedy.
        Unsupported: the firmware lacks DTLS, or pre-shared keys (MicroPython before 1.29).
    """
    # MicroPython's is smaller by what only a program that calls this may want.
    make = getattr(runtime, "full_client_context", runtime.client_context)
    context: "Context" = make(
        ca,
        cert,
        key,
        datagram=datagram,
        insecure=insecure,
        pins=pins,
        psk=psk,
        ciphers=ciphers,
    )
    return context


def server_context(
    cert: "Source | None" = None,
    key: "Source | None" = None,
    ca: "Source | list[Source] | None" = None,
    *,
    datagram: bool = False,
    psk: "Keys | None" = None,
    ciphers: "list[str] | None" = None,
) -> "Context":
    """Make a context for accepting connections.

    Args:
        cert, key, ca, datagram: as for client_context. With ``ca`` a client must present a
            certificate that leads to it (mutual TLS).
        psk: instead of all these: identity to key, a dict; on CPython also a function of the
            identity (bytes) that returns the key or None, and also beside ``cert``, ``key`` and
            ``ca``: a client then shows a certificate or, up to (D)TLS 1.2, shares a key.
        ciphers: as for client_context.

    Raises:
        CredentialError, Unsupported.
    """
    return runtime.server_context(cert, key, ca, datagram=datagram, psk=psk, ciphers=ciphers)


def _context(ssl: "Context | bool | None") -> "Context | None":
    """Return the context for the ``ssl`` argument of the calls below."""
    global _has_warned
    if ssl is None or ssl is False:
        return None
    if ssl is not True:
        return ssl
    if not getattr(runtime, "HAS_SYSTEM_STORE", False):  # MicroPython's has no such name
        if not _has_warned:
            _has_warned = True
            print("fleetnet: ssl=True encrypts but verifies nobody: pass a client_context(ca=...)")
        return runtime.client_context(insecure=True)
    return runtime.client_context()


class Stream:
    """Reader and writer of one connection; one task may read and one may write.

    Bytes that have arrived are never lost when a waiting caller gives up.

    When the peer has no more to send, read() says so, and over plain TCP writing goes on. Over
    TLS write nothing then: on CPython that is the end of both directions, as in asyncio, and
    write() raises LinkClosed; on MicroPython bytes still go out, to a peer that may discard them.
    """

    def __init__(self, raw: "RawStream"):
        self._raw = raw
        self._buffer = b""
        self.verified = raw.verified

    async def _fill(self) -> bool:
        data = await self._raw.read(_READ_BYTES)
        self._buffer += data
        return bool(data)

    def _take(self, n: int) -> bytes:
        data = self._buffer[:n]
        self._buffer = self._buffer[n:]
        return data

    async def read(self, n: int = -1) -> bytes:
        """Return 1 to ``n`` bytes, b"" at the end of file; all of it when ``n`` is -1.

        Raises:
            LinkClosed, Rejected, the TrustError family (the handshake may run in here).
        """
        if n < 0:
            while await self._fill():
                pass
            return self._take(len(self._buffer))
        if not self._buffer and n:
            await self._fill()
        return self._take(n)

    async def readexactly(self, n: int) -> bytes:
        """Return exactly ``n`` bytes. Raises EOFError when the stream ends first."""
        while len(self._buffer) < n:
            if not await self._fill():
                raise EOFError("stream ended after %d of %d B" % (len(self._buffer), n))
        return self._take(n)

    async def readline(self) -> bytes:
        """Return a line with its newline; less at the end of file."""
        start = 0
        while True:
            at = self._buffer.find(b"\n", start)
            if at >= 0:
                return self._take(at + 1)
            start = len(self._buffer)
            if not await self._fill():
                return self._take(len(self._buffer))

    def write(self, data: bytes) -> None:
        """Keep ``data`` for drain()."""
        self._raw.write(data)

    async def drain(self) -> None:
        """Send what write() kept. The first time this includes the TLS handshake.

        Raises: as read.
        """
        await self._raw.drain()

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._raw.wait_closed()

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher name, protocol version), None before the handshake's end."""
        return self._raw.cipher()

    def peer_certificate(self) -> "bytes | None":
        """Return the peer's certificate as DER, None where the firmware keeps none."""
        return self._raw.peer_certificate()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
        await self.wait_closed()


async def open_connection(
    host: str,
    port: int,
    ssl: "Context | bool | None" = None,
    server_hostname: "str | None" = None,
    timeout_ms: int = 10_000,
) -> "tuple[Stream, Stream]":
    """Connect over TCP, or TLS, and return (reader, writer): the same Stream twice.

    Args:
        ssl: None or False: plain TCP. True: what the platform means by it, which on
            MicroPython is encryption without verification (said once), on CPython
            verification against the system's store. Or a client_context.
        server_hostname: the name that the certificate must carry; ``host`` when None.
        timeout_ms: for connecting and the handshake together.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected, CredentialError. On
        MicroPython those of the handshake come out of the first drain() or read().
    """
    raw = await runtime.open_stream(host, port, _context(ssl), server_hostname, timeout_ms)
    stream = Stream(raw)
    return stream, stream


async def start_server(
    callback: "Callable[[Stream, Stream], Awaitable[None]]",
    host: str,
    port: int,
    ssl: "Context | bool | None" = None,
    backlog: int = 5,
) -> "Listener":
    """Accept connections; ``await callback(reader, writer)`` runs for each.

    The callback closes its connection; one that raises has it closed.

    Returns:
        A listener with ``port``, ``close()`` and ``wait_closed()``.
    """

    async def accepted(raw: "RawStream") -> None:
        stream = Stream(raw)
        try:
            await callback(stream, stream)
        except BaseException:
            stream.close()  # or its peer would wait for ever
            raise

    return await runtime.listen(accepted, host, port, _context(ssl), backlog)


async def open_dtls(
    host: str,
    port: int,
    ssl: "Context | bool | None",
    server_hostname: "str | None" = None,
    timeout_ms: int = 10_000,
) -> "Datagrams":
    """Open a DTLS association: ``send`` and ``recv`` never block, ``receive`` waits.

    Args:
        ssl: a client_context with ``datagram=True``.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    if ssl is None or isinstance(ssl, bool):
        raise Unsupported("open_dtls needs ssl=client_context(..., datagram=True)")
    return await runtime.open_datagram(host, port, ssl, server_hostname, timeout_ms)


async def serve_dtls(
    callback: "Callable[[AcceptedDatagrams], Awaitable[None]]",
    host: str,
    port: int,
    ssl: "Context | None",
) -> "DatagramListener":
    """Serve DTLS; ``await callback(datagrams)`` runs for each client whose handshake is over.

    Many clients share the one UDP socket. A client is answered with a cookie first and costs
    nothing before it has sent that back. A client that begins anew from its old address (it
    was rebooted) takes the place of the old association at the end of its handshake.

    Args:
        callback: gets what open_dtls returns, with ``peer``, (host, port), besides. The
            association is closed when it returns.
        ssl: a server_context with ``datagram=True``.

    Returns:
        A listener with ``port``, ``close()`` and ``wait_closed()``.

    Raises:
        Unsupported: MicroPython before 1.26.
    """
    if ssl is None or not ssl.datagram or not ssl.server_side:
        raise Unsupported("serve_dtls needs ssl=server_context(..., datagram=True)")
    return await runtime.serve_datagrams(callback, host, port, ssl)
