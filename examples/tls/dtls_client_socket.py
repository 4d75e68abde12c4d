"""Row 5: DTLS on a UDP socket of one's own, handshake and all in small steps.

    dtls_client_socket.py HOST PORT NAME CA

For programs that poll sockets; with asyncio, dtls_client.py does the same in fewer lines.
"""

import asyncio
import socket
import sys

from fleetnet import client_context


async def main(host, port, name, ca):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(socket.getaddrinfo(host, int(port))[0][-1])  # DTLS has one peer a socket
    secure = client_context(ca, datagram=True).wrap_socket(
        sock, server_hostname=name, do_handshake_on_connect=False
    )
    secure.setblocking(False)
    for _ in range(500):  # 10 s
        # The first send is the handshake; None: not yet. Called again it sends lost flights
        # again, which nothing else does: mbedTLS has no timer of its own.
        if secure.send(b"ping") is not None:
            break
        await asyncio.sleep(0.02)
    for _ in range(100):
        data = secure.recv(1500)  # None: nothing now
        if data:
            print(secure.cipher()[1], data.decode())
            break
        await asyncio.sleep(0.02)
    secure.close()


asyncio.run(main(*sys.argv[1:]))
