"""TCP without TLS, with the calls of a Channel."""

from fleetnet.ports.micropython_channel import map_late, wake
from fleetnet.ports.micropython_streams import BUSY


class Plain:
    """A connected socket that does not block."""

    def __init__(self, sock, what):
        self._sock = sock
        self._what = what

    def recv(self, n):
        return self._do(self._sock.recv, n)

    def write(self, view):
        return self._do(self._sock.write, view)

    def _do(self, call, argument):
        try:
            return call(argument)
        except OSError as error:
            if error.args[0] in BUSY:
                return None
            self.close()
            raise map_late(error, None, self._what)

    def is_over(self):
        """There is no handshake."""
        return True

    def cipher(self):
        return None

    def peer_certificate(self):
        return None

    def close(self):
        wake(self._sock)
        self._sock.close()
