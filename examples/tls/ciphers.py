"""Row 8: cipher suites, verify_mode, and a handshake that is put off.

    ciphers.py HOST PORT NAME CA [SUITE]

Suites are named as mbedTLS names them, on CPython too: TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256.
"""

import socket
import sys

from fleetnet import CERT_REQUIRED, client_context


def main(host, port, name, ca, suite=None):
    context = client_context(ca)
    print("%d suites, verify_mode %d" % (len(context.get_ciphers()), context.verify_mode))
    assert context.verify_mode == CERT_REQUIRED
    if suite is not None:
        context.set_ciphers([suite])
    sock = socket.socket()
    sock.connect(socket.getaddrinfo(host, int(port))[0][-1])
    secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    print("before the handshake:", secure.cipher())
    secure.do_handshake()  # or leave it to the first write
    print("after it:", secure.cipher())
    secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print(secure.readline().decode().strip())
    secure.close()


main(*sys.argv[1:])
