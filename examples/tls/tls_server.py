"""Row 4: a TLS server on the camera; with CLIENT_CA a client must show a certificate of it.

    tls_server.py HOST PORT CERT KEY [CLIENT_CA]

Answers each line with the same line. A client that is refused costs the server nothing.
"""

import asyncio
import sys

from fleetnet import FleetError, server_context, start_server


async def serve(reader, writer):
    try:
        while True:
            line = await reader.readline()
            if not line:
                break
            shown = writer.peer_certificate()
            writer.write(b"%d B of certificate: %s" % (len(shown) if shown else 0, line))
            await writer.drain()
    except FleetError as error:
        print("refused:", type(error).__name__, error)
    writer.close()
    await writer.wait_closed()


async def main(host, port, cert, key, client_ca=None):
    context = server_context(cert, key, client_ca)
    await start_server(serve, host, int(port), ssl=context)
    print("listening")
    await asyncio.Event().wait()  # for ever


asyncio.run(main(*sys.argv[1:]))
