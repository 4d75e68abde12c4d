"""Row 5: DTLS with polled send and receive; nothing here waits but ``asyncio.sleep``.

    dtls_client.py HOST PORT NAME CA [CERT KEY]
    dtls_client.py HOST PORT                       encryption only
"""

import asyncio
import sys

from fleetnet import client_context, open_dtls


async def main(host, port, name=None, ca=None, cert=None, key=None):
    context = client_context(ca, cert, key, datagram=True, insecure=ca is None)
    # The handshake does not hold up the other tasks; lost flights are sent again.
    link = await open_dtls(host, int(port), ssl=context, server_hostname=name)
    print("verified:", link.verified)
    answers = 0
    for number in range(200):
        if number % 10 == 0:
            link.send(b"ping %d" % number)  # False: the stack has no room now
        data = link.recv()  # None: nothing now
        if data:
            # Boards know the suite once something has arrived.
            print(link.cipher()[1], data.decode())
            answers += 1
        if answers == 3:
            break
        await asyncio.sleep(0.02)
    link.close()


asyncio.run(main(*sys.argv[1:]))
