"""How many bytes wait in a UDP socket of this machine: the way on for a polite sender.

The load and the server share a machine: without a wire between them, datagrams are lost
only because the sender does not stop. Reads one socket by sock_diag(7), in 10 us;
/proc/net/udp would list every socket for it.
"""

import os
import socket
import struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_REQUEST_BYTES = 16 + 56


class SocketQueue:
    """The receive queue of the UDP socket bound to 127.0.0.1:``number``."""

    def __init__(self, number: int):
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)
        self._netlink.bind((0, 0))
        self._netlink.settimeout(1.0)
        # struct inet_diag_req_v2, linux/inet_diag.h. For UDP the kernel takes source and
        # destination as a datagram has them that arrives: our socket is the destination.
        address = socket.inet_aton("127.0.0.1") + bytes(12)
        ports = struct.pack(">HH", 0, number)
        which = ports + bytes(16) + address + struct.pack("=I8s", 0, b"\xff" * 8)
        body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_UDP, 0, 0, 0xFFFFFFFF) + which
        head = struct.pack("=IHHII", _REQUEST_BYTES, _SOCK_DIAG_BY_FAMILY, _REQUEST, 1, 0)
        self._question = head + body

    def size(self) -> int:
        """Return the bytes that wait, the kernel's own for each datagram included.

        Raises:
            OSError: there is no such socket.
        """
        self._netlink.send(self._question)
        answer = self._netlink.recv(4096)
        kind = struct.unpack_from("=H", answer, 4)[0]
        if kind != _SOCK_DIAG_BY_FAMILY:
            code = -struct.unpack_from("=i", answer, 16)[0]
            raise OSError(code, f"sock_diag: {os.strerror(code)}")
        # struct inet_diag_msg: 4 B, the id of 48 B, then expires and rqueue.
        waiting: int = struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0]
        return waiting
