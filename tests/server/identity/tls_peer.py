"""A TLS server with any chain, and a MicroPython client that verifies it.

    with tls_peer(leaf, middle) as port:
        assert connects(interpreter, port, "localhost", anchor_file) == "ok"
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from OpenSSL import SSL, crypto

from interpreters import ROOT, Interpreter
from server.identity.chains import Party

_CLIENT = ROOT / "tests" / "server" / "identity" / "verifying_client.py"


class _Peer:
    """Attributes: names: what clients asked for by SNI."""

    def __init__(self, chain: tuple[Party, ...], tls12: bool, client_ca: Party | None):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.use_certificate(chain[0].certificate)
        context.use_privatekey(chain[0].key)
        for party in chain[1:]:
            context.add_extra_chain_cert(party.certificate)
        if tls12:
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
        if client_ca is not None:
            context.get_cert_store().add_cert(
                crypto.X509.from_cryptography(client_ca.certificate)
            )
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        context.set_tlsext_servername_callback(
            lambda connection: self.names.append(connection.get_servername())
        )
        self.names: list[bytes | None] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(30)
                if sock.recv(1, socket.MSG_PEEK) == b"q":  # close() knocks
                    return
                sock.setblocking(True)
                connection = SSL.Connection(self._context, sock)
                connection.set_accept_state()
                with contextlib.suppress(SSL.Error):
                    connection.do_handshake()
                    connection.send(connection.recv(16))
                    connection.shutdown()

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            sock.send(b"q")
        self._thread.join(30)
        self._listener.close()


@contextlib.contextmanager
def tls_peer(
    *chain: Party, tls12: bool = True, client_ca: Party | None = None
) -> Iterator[_Peer]:
    """Serve with a chain, leaf first. ``tls12``: nothing newer; ``client_ca``: mutual TLS."""
    peer = _Peer(chain, tls12, client_ca)
    try:
        yield peer
    finally:
        peer.close()


def connects(interpreter: Interpreter, port: int, name: str, *anchors: Path) -> str:
    """Let a real MicroPython verify the server; return "ok" or the error's words."""
    done = interpreter.run(str(_CLIENT), str(port), name, *map(str, anchors))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loads(interpreter: Interpreter, cert: Path, key: Path | None = None) -> str:
    """Let a real MicroPython load a file as anchor, or with ``key`` as its own pair."""
    done = interpreter.run(str(_CLIENT), "load", str(cert), *([str(key)] if key else []))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
