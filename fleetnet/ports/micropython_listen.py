"""Accepting connections on MicroPython; loaded only by a device that serves.

Source: extmod/asyncio/stream.py.
"""

import asyncio
import socket
import sys

from fleetnet.errors import CredentialError
from fleetnet.ports.micropython import readable, resolve, ticks
from fleetnet.ports.micropython_channel import Recorder
from fleetnet.ports.micropython_context import Context
from fleetnet.ports.micropython_records import APPLICATION_DATA
from fleetnet.ports.micropython_streams import Stream
from fleetnet.ports.micropython_tls import load_anchors, load_pair, make_context
from fleetnet.ticks import ticks_add

_HANDSHAKE_MS = 10_000


class ServerRecorder(Recorder):
    """A server's: ``sealed`` when its own Finished leaves, as that is the last one.

    TLS 1.3: when it asks for more behind an encrypted record of the client.
    """

    _encrypted = False

    def readinto(self, buf):
        if self._encrypted and not self.head:
            self.sealed = True
        return super().readinto(buf)

    def look_at_datagram(self, buf, count):
        # The client's: of interest for its alerts.
        spec_changed = self.spec_changed
        super().look_at_datagram(buf, count)
        self.spec_changed = spec_changed
        self.sealed = False

    def look_at_record(self, kind):
        self._encrypted = kind == APPLICATION_DATA

    def look_at_own(self, buf):
        if self.datagram:
            alert = self.alert
            super().look_at_datagram(buf, len(buf))
            self.alert = alert
        else:
            super().look_at_record(buf[0])


class ServerContext(Context):
    """See micropython_context.Context."""

    recorder_class = ServerRecorder


def server_context(cert=None, key=None, ca=None, datagram=False, psk=None, ciphers=None):
    """See fleetnet.streams.server_context."""
    if psk is not None:
        if cert is not None or key is not None or ca is not None:
            raise CredentialError("psk= takes the place of cert=, key= and ca=")
        mode = "psk"
    else:
        if cert is None and key is None:
            raise CredentialError("a server needs cert= and key=, or psk=")
        mode = "verified" if ca else "insecure"
    context = make_context("SERVER", datagram, mode, ServerContext)
    if psk is None:
        if ca:
            load_anchors(context, ca)
        load_pair(context, cert, key)
    if psk is not None or ciphers is not None:
        from fleetnet.ports.micropython_modes import equip

        equip(context, None, psk, ciphers)
    return context


class Listener:
    """A listening socket and the task that accepts on it."""

    def __init__(self, sock, port, context, callback):
        self._sock = sock
        self.port = port
        self._callbacks = []
        self._task = asyncio.create_task(self._accept(context, callback))

    async def _accept(self, context, callback):
        while True:
            await readable(self._sock)
            try:
                raw = self._sock.accept()[0]
            except OSError:
                continue
            raw.setblocking(False)
            try:
                deadline = ticks_add(ticks(), _HANDSHAKE_MS)
                stream = Stream(raw, context, None, "client", deadline)
            except Exception as error:
                sys.print_exception(error)
                continue
            self._callbacks.append(asyncio.create_task(callback(stream)))
            self._callbacks = [task for task in self._callbacks if not task.done()]

    def close(self):
        self._task.cancel()
        self._sock.close()

    async def wait_closed(self):
        """MicroPython's sockets close at once."""


async def listen(callback, host, port, context=None, backlog=4):
    """Accept TCP or TLS connections; ``callback(stream)`` runs as a task for each."""
    info = resolve(host, port, socket.SOCK_STREAM)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(info[-1])
    sock.listen(backlog)
    sock.setblocking(False)
    return Listener(sock, port, context, callback)


async def serve_datagrams(callback, host, port, context):
    """See fleetnet.streams.serve_dtls."""
    from fleetnet.ports import micropython_dtls_server

    return await micropython_dtls_server.serve(callback, host, port, context)
