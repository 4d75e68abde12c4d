"""Run by MicroPython: verify a server with given anchors, or load a file; see tls_peer.py."""

import socket
import sys

import tls


def read(path):
    with open(path, "rb") as file:
        return file.read()


def load(cert, key=None):
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if key:
        context.load_cert_chain(read(cert), read(key))
    else:
        context.load_verify_locations(read(cert))


def connect(port, name, *anchors):
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    context.verify_mode = tls.CERT_REQUIRED
    for path in anchors:
        context.load_verify_locations(read(path))
    sock = socket.socket()
    sock.connect(socket.getaddrinfo("127.0.0.1", int(port))[0][-1])
    secure = context.wrap_socket(sock, server_hostname=name)
    secure.write(b"ping")
    assert secure.read(4) == b"ping"


try:
    if sys.argv[1] == "load":
        load(*sys.argv[2:])
    else:
        connect(*sys.argv[1:])
    print("ok")
except (OSError, ValueError) as error:
    print(str(error).strip())
