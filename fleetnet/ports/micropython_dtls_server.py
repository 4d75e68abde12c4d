"""Serving DTLS on MicroPython 1.26 and newer: many clients on one UDP socket.

mbedTLS wants a connected socket for each client. Here the Switchboard reads the one socket
and gives each client a Wire, a stream that mbedTLS takes for its socket.

- Somebody new: their ClientHello is put before an mbedTLS object that lives for this one
  datagram. It answers with HelloVerifyRequest, and is forgotten, cookie and all: the cookie is
  a MAC of the address. Only a hello that brings a good cookie gets a place, and a deadline.
- Somebody known sends a new ClientHello (the camera was rebooted): a second association is
  tried beside the old one, and replaces it at the end of its handshake, not before.
- Everything is bounded: clients, handshakes at a time, waiting datagrams of each client,
  hellos a second.

Sources: RFC 6347 section 4.2 (cookies, datagram layout), extmod/modtls_mbedtls.c.
"""

import asyncio
import gc
import io
import socket
import sys

from fleetnet.errors import FleetError, LimitError
from fleetnet.ports.micropython import readable, resolve, ticks
from fleetnet.ports.micropython_channel import Channel
from fleetnet.ports.micropython_dtls import Datagrams
from fleetnet.ticks import ticks_add, ticks_diff

# An association costs 23 KB of heap on a 32-bit port.
MAX_CLIENTS = 8
MAX_HANDSHAKES = 4
MAX_WAITING = 8
HELLOS_PER_S = 30
HANDSHAKE_MS = 10_000
# Who has been silent for this long gives its place to a newcomer when none is free.
SILENT_MS = 120_000

_DATAGRAM_BYTES = 2048
_AT_ONCE = 16  # datagrams read before others get a turn

# A datagram with a whole ClientHello: record header (13 B), handshake header (12 B), version
# (2 B), random (32 B), session id, cookie.
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RANDOM = 27
_SESSION_ID = 59


class Wire(io.IOBase):
    """What mbedTLS takes for the socket of one client."""

    def __init__(self, sock, address):
        self._sock = sock
        self._address = address
        self._inbox = []
        self.arrived = asyncio.Event()

    def put(self, datagram):
        """Keep a datagram; the newest gives way when too many wait, as in any UDP queue."""
        if len(self._inbox) < MAX_WAITING:
            self._inbox.append(datagram)
            self.arrived.set()

    def readinto(self, buf):
        if not self._inbox:
            self.arrived.clear()
            return None
        datagram = self._inbox.pop(0)
        count = min(len(datagram), len(buf))
        buf[:count] = datagram[:count]
        return count

    def write(self, buf):
        return self._sock.sendto(buf, self._address)

    def ioctl(self, request, argument):
        return 0

    def close(self):
        """Wake who waits: the association is over."""
        self.arrived.set()


class Association(Datagrams):
    """A Datagrams of a server.

    Attributes:
        peer: (host, port).
    """

    def __init__(self, channel, wire, verified, peer, random):
        super().__init__(channel, wire.arrived.wait, verified, "%s:%d" % peer)
        self.peer = peer
        self.random = random
        self.wire = wire
        self.heard = ticks()


class Switchboard:
    """The UDP socket, who is on it, and the tasks that serve them.

    Attributes:
        port: as it was asked for.
        refused: how many handshakes of holders of a cookie failed; last_refusal: why.
    """

    def __init__(self, sock, port, context, callback):
        self.port = port
        self.refused = 0
        self.last_refusal = None
        self._sock = sock
        self._context = context
        self._callback = callback
        self._clients = {}
        self._newcomers = {}
        self._tasks = []
        self._hellos = HELLOS_PER_S
        self._refilled = ticks()
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        while True:
            await readable(self._sock)
            for _ in range(_AT_ONCE):
                try:
                    datagram, address = self._sock.recvfrom(_DATAGRAM_BYTES)
                except OSError:  # nothing more, or an ICMP error of some client
                    break
                try:
                    self._route(datagram, _key(address), address)
                except Exception as error:
                    sys.print_exception(error)  # a stranger's datagram must not end the server
            await asyncio.sleep_ms(0)

    def _route(self, datagram, key, address):
        client = self._clients.get(key)
        newcomer = self._newcomers.get(key)
        if _is_hello(datagram):
            random = datagram[_RANDOM:_SESSION_ID]
            if newcomer is not None and newcomer.random == random:
                newcomer.wire.put(datagram)  # it did not get our flight
            elif client is None or client.random != random:
                self._greet(datagram, key, address, random)
            return
        # A record of an old client may also be one of its successor's: keys tell.
        for each in (client, newcomer):
            if each is not None:
                each.heard = ticks()
                each.wire.put(datagram)

    def _greet(self, datagram, key, address, random):
        """Answer a hello with a cookie; keep who brought a good one."""
        if not self._may_greet(key):
            return
        peer = _peer(address)
        wire = Wire(self._sock, address)
        wire.put(datagram)
        try:
            channel = Channel(self._context, wire, None, "%s:%d" % peer, key)
            channel.recv(1)
        except FleetError as error:
            # A cookie was sent; or this is no hello that we can answer, or memory is short.
            if isinstance(error, LimitError):
                self.last_refusal = error
                gc.collect()
            return
        _end(self._newcomers.pop(key, None))
        newcomer = Association(channel, wire, self._context.verified, peer, random)
        self._newcomers[key] = newcomer
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self._serve(newcomer, key)))

    def _may_greet(self, key):
        """Say whether there is a place; count hellos: each costs 21 KB of heap for a moment."""
        if len(self._newcomers) >= MAX_HANDSHAKES and key not in self._newcomers:
            return False
        now = ticks()
        if ticks_diff(now, self._refilled) >= 1000:
            self._refilled = now
            self._hellos = HELLOS_PER_S
        self._hellos -= 1
        return self._hellos >= 0

    async def _serve(self, association, key):
        """Take one client through its handshake and its callback."""
        try:
            try:
                await association.handshake(ticks_add(ticks(), HANDSHAKE_MS))
                self._seat(association, key)
            except FleetError as error:
                self.refused += 1
                self.last_refusal = error
                return
            finally:
                if self._newcomers.get(key) is association:
                    del self._newcomers[key]
            try:
                await self._callback(association)
            except FleetError:
                pass  # the association ended, which is the callback's to know
            except Exception as error:
                sys.print_exception(error)
        finally:
            association.close()
            if self._clients.get(key) is association:
                del self._clients[key]

    def _seat(self, association, key):
        """Make it the client of its address, in place of an older one."""
        _end(self._clients.pop(key, None))
        if len(self._clients) >= MAX_CLIENTS:
            now = ticks()
            longest, silent = max(
                [(ticks_diff(now, each.heard), name) for name, each in self._clients.items()]
            )
            if longest < SILENT_MS:
                raise LimitError("%d clients are connected: no room" % MAX_CLIENTS)
            _end(self._clients.pop(silent))
        self._clients[key] = association

    def close(self):
        """End every association and close the socket."""
        self._reader.cancel()
        for each in list(self._clients.values()) + list(self._newcomers.values()):
            each.close()
        for task in self._tasks:
            task.cancel()
        self._sock.close()

    async def wait_closed(self):
        """Wait until the callbacks have ended."""
        while any([not task.done() for task in self._tasks]):
            await asyncio.sleep_ms(10)


def _end(association):
    if association is not None:
        association.close()


def _is_hello(datagram):
    """Say whether it holds a ClientHello of epoch 0, long enough for its random."""
    return (
        len(datagram) > _SESSION_ID
        and datagram[0] == _HANDSHAKE
        and datagram[3] == 0
        and datagram[4] == 0
        and datagram[13] == _CLIENT_HELLO
    )


def _key(address):
    """Return bytes that name an address: the unix port has them, others have (host, port)."""
    if isinstance(address, tuple):
        return ("%s:%d" % address[:2]).encode()
    return bytes(address)


def _peer(address):
    if isinstance(address, tuple):
        return address[:2]
    family, host, port = socket.sockaddr(address)[:3]
    return socket.inet_ntop(family, host), port


async def serve(callback, host, port, context):
    """See fleetnet.streams.serve_dtls."""
    info = resolve(host, port, socket.SOCK_DGRAM)
    sock = socket.socket(info[0], socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind(info[-1])
        # Asked of the firmware itself: 1.25 knows no client_id, and cannot serve.
        Channel(context, Wire(sock, info[-1]), None, "%s:%d" % (host, port), b"?").close()
    except BaseException:
        sock.close()
        raise
    return Switchboard(sock, port, context, callback)
