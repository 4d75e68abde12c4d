"""Row 6: a DTLS server on a UDP socket of one's own, for one client: cookie and ``client_id``.

    dtls_server_socket.py HOST PORT CERT KEY

For more than one client at a time see dtls_server.py.
"""

import socket
import sys

from fleetnet import server_context

# A firmware without it has no DTLS server either, and wrap_socket says so.
PEEK = getattr(socket, "MSG_PEEK", 0)


def main(host, port, cert, key):
    context = server_context(cert, key, datagram=True)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(socket.getaddrinfo(host, int(port))[0][-1])
    print("listening")
    address = sock.recvfrom(1, PEEK)[1]  # the hello stays for the handshake
    sock.connect(address)
    # The cookie that the client must bring back is bound to its address.
    secure = context.wrap_socket(sock, server_side=True, client_id=repr(address).encode())
    secure.send(b"echo " + secure.recv(1500))
    secure.close()


main(*sys.argv[1:])
