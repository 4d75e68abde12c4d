"""Which server and which transport next, and one session after another.

DTLS goes first: fewer bytes, no stalls behind a lost packet. Where UDP does not pass the
same server is asked over TLS at once, and DTLS is tried again after a while, rarer each
time. A server that fails makes room for the next of the list.
"""

import gc

from fleetnet.endpoint import Endpoint, open_link
from fleetnet.errors import LinkError, Rejected
from fleetnet.ports import port
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet_device.backoff import Backoff
from fleetnet_device.limits import DTLS_MS, MAX_RETURN_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet_device.core import DeviceCore


class Connection:
    """Keeps a device connected.

    Args:
        connect_ms: for connecting, TLS or DTLS handshake and WELCOME, each.
        return_ms: after so long over TLS, DTLS is tried again.
    """

    def __init__(self, device: "DeviceCore", connect_ms: int, return_ms: int):
        self._device = device
        self._credentials = device.credentials
        self.connect_ms = connect_ms
        self._is_auto = self._credentials.transport == "auto"
        self._first_return_ms = self._return_ms = return_ms
        self._return_due = 0
        self.server = 0
        self._backoff = Backoff(port.random_bytes)
        self.datagram = self._credentials.transport != "tls"
        self.endpoint: "Endpoint | None" = None

    def wake(self) -> None:
        """The session has something to send."""
        if self.endpoint is not None:
            self.endpoint.wake()

    async def run(self) -> None:
        """Connect for ever; whatever happens, a camera on a mast must try again."""
        device = self._device
        while True:
            opened = device.connects
            began = device.clock.uptime_ms()
            retry_after_ms = 0
            error: "Exception | None" = None
            device.link_opening()
            try:
                await self._connect_once()
            except Exception as caught:
                error = caught
            finally:
                if self.endpoint is not None:
                    retry_after_ms = self.endpoint.retry_after_ms
                self.endpoint = None
                device.link_lost(error)
            lasted_ms = 0
            if device.connects > opened:
                lasted_ms = device.clock.uptime_ms() - began
            elif self._fall_back(error):
                continue
            gc.collect()
            refused = isinstance(error, Rejected) and (1 if error.reason is None else 2)
            pause_ms = self._backoff.after(lasted_ms, retry_after_ms, refused)
            if device.is_renewing:
                pause_ms = 1
            device.progress(pause_ms)
            await port.sleep_ms(pause_ms)

    def _fall_back(self, error: "Exception | None") -> bool:
        """Choose another way after one that did not open; True when it may be tried at once."""
        if self._is_auto and self.datagram and isinstance(error, LinkError):
            self.datagram = False
            self._return_due = ticks_add(port.ticks(), self._return_ms)
            self._return_ms = min(2 * self._return_ms, MAX_RETURN_MS)
            return True
        self.server = (self.server + 1) % len(self._credentials.servers)
        self.datagram = self._credentials.transport != "tls"
        return False

    async def _connect_once(self) -> None:
        """Open a link, run the session on it to its end."""
        device = self._device
        server = self._credentials.servers[self.server]
        if self._is_auto and not self.datagram and ticks_diff(self._return_due, port.ticks()) <= 0:
            self.datagram = True
        timeout_ms = self.connect_ms
        if self._is_auto and self.datagram:
            timeout_ms = min(timeout_ms, DTLS_MS)
        if self._credentials.network:
            await device.part("network").up()
        gc.collect()
        device.progress()  # the cryptography to come stops the loop for seconds
        if self._credentials.claim:
            from fleetnet_device import enrol

            await enrol.run(device, server)
        pinned = False
        if not device.clock.own_ms():
            from fleetnet_device import unset_clock

            pinned = await unset_clock.is_pinned(device)
        context = self._credentials.context(self.datagram, pinned)
        link = await open_link(
            server.host,
            server.dtls_port if self.datagram else server.tls_port,
            context,
            server.server_hostname,
            timeout_ms,
        )
        try:
            session = device.new_link(link.datagram)
            self.endpoint = Endpoint(session, link, device.on_event, timeout_ms)
            if self._is_auto and not self.datagram:
                device.spawn(self._return_to_dtls(self.endpoint))
            await self.endpoint.run()
        finally:
            link.close()

    async def _return_to_dtls(self, endpoint: "Endpoint") -> None:
        """End a session over TLS when it is time to try DTLS again."""
        while self.endpoint is endpoint:
            left_ms = ticks_diff(self._return_due, port.ticks())
            if left_ms <= 0:
                self._device.renew()
                return
            await port.sleep_ms(min(left_ms, 1_000))

    def note_opened(self) -> None:
        """A session is open: over DTLS, UDP passes again."""
        if self.datagram:
            self._return_ms = self._first_return_ms
