"""Row 1: encryption only, blocking. Anybody may answer, and nothing tells you.

    encrypt_only.py HOST PORT
"""

import socket
import sys

from fleetnet import client_context


def main(host, port):
    sock = socket.socket()
    sock.connect(socket.getaddrinfo(host, int(port))[0][-1])
    secure = client_context(insecure=True).wrap_socket(sock)
    secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print("verified:", secure.verified)
    print(secure.recv(4096).decode())
    secure.close()


main(*sys.argv[1:])
