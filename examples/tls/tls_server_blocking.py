"""Row 4: a TLS server with blocking sockets, one client at a time.

    tls_server_blocking.py HOST PORT CERT KEY [CLIENT_CA]
"""

import socket
import sys

from fleetnet import FleetError, server_context


def main(host, port, cert, key, client_ca=None):
    context = server_context(cert, key, client_ca)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(socket.getaddrinfo(host, int(port))[0][-1])
    listener.listen(1)
    print("listening")
    while True:
        client = listener.accept()[0]
        secure = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        secure.settimeout(10)  # nobody holds up the others for longer
        try:
            secure.do_handshake()
            secure.sendall(b"you said " + secure.readline())
        except FleetError as error:
            print("refused:", type(error).__name__, error)
        secure.close()


main(*sys.argv[1:])
