"""Row 2: a client that verifies the server: one anchor or several, names and addresses, SNI.

    verify_server.py HOST PORT NAME ANCHOR [ANCHOR ...]

NAME is what the certificate must carry, a host name or an IP address; a host name is also sent
(SNI), so that a server with several certificates shows the right one.
"""

import asyncio
import sys

from fleetnet import WrongCA, client_context, open_connection


async def ask(host, port, name, context):
    reader, writer = await open_connection(host, int(port), ssl=context, server_hostname=name)
    async with writer:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await writer.drain()
        return (await reader.readline()).decode().strip()


async def main(host, port, name, *anchors):
    # One context that trusts them all ...
    print("any anchor:", await ask(host, port, name, client_context(list(anchors))))
    # ... and one for each, as servers under different CAs should get.
    for anchor in anchors:
        try:
            print("%s:" % anchor, await ask(host, port, name, client_context(anchor)))
        except WrongCA as error:
            print("%s: not the one (%s)" % (anchor, error))


asyncio.run(main(*sys.argv[1:]))
