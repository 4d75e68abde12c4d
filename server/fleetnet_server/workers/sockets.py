"""The listening sockets of all workers, made and kept by the supervisor.

Each worker has a socket of its own on each port (SO_REUSEPORT): the kernel chooses one by the
addresses and ports of both ends. It chooses anew, for everybody, when a socket joins or leaves.
So none ever does while the server runs: a worker inherits its sockets, the supervisor keeps them
open, and the worker that takes a dead one's place inherits the same ones. What arrives meanwhile
waits in them.
"""

import socket
from collections.abc import Mapping
from typing import Any

from fleetnet_server.config import Settings
from fleetnet_server.listeners import PORTS, protocol_of
from fleetnet_server.served import port_error

# As the listeners of one process have them (ports/cpython_dtls_server.py, net/tls.py): a burst of
# every device at once, and the connections of a fleet that comes back.
_RECEIVE_BUFFER = 4 << 20
_BACKLOG = 4096


class Sockets:
    """One for each worker and port.

    Attributes:
        ports: the real ones, by the setting's name.

    Raises:
        ConfigError: a port cannot be had; none is open.
    """

    def __init__(self, settings: Settings, workers: int):
        self.ports: dict[str, int] = {}
        self._of: list[dict[str, socket.socket]] = [{} for _ in range(workers)]
        for key, kind in PORTS.items():
            number = getattr(settings, key)
            if key == "enrol_port" and not number:
                continue
            try:
                self._open(key, kind, settings.bind, number)
            except OSError as error:
                self.close()
                raise port_error(settings.bind, key, number, error, protocol_of(key)) from error

    def _open(self, key: str, kind: int, host: str, number: int) -> None:
        info = socket.getaddrinfo(host, number, type=kind, flags=socket.AI_PASSIVE)[0]
        family, address = info[0], info[4]
        with _bind(family, kind, address, is_shared=False) as probe:
            # Another server with workers on this port would get a share of our devices: a socket
            # that shares with nobody finds it.
            if kind == socket.SOCK_STREAM:
                probe.listen(1)
            address = (address[0], probe.getsockname()[1], *address[2:])
        for sockets in self._of:
            made = sockets[key] = _bind(family, kind, address, is_shared=True)
            if kind == socket.SOCK_STREAM:
                made.listen(_BACKLOG)
        self.ports[key] = int(address[1])

    def of(self, worker: int) -> Mapping[str, socket.socket]:
        """Return a worker's sockets by the setting's name of their port."""
        return self._of[worker]

    def close(self) -> None:
        """Close them; those that workers still have stay open there."""
        for sockets in self._of:
            for sock in sockets.values():
                sock.close()


def _bind(family: int, kind: int, address: tuple[Any, ...], is_shared: bool) -> socket.socket:
    """Return a bound socket. Raises OSError."""
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
