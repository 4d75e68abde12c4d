"""Row 9: a server that knows its clients by pre-shared keys, over TLS or DTLS.

    psk_server.py tls|dtls HOST PORT IDENTITY HEXKEY [IDENTITY HEXKEY ...]
"""

import asyncio
import binascii
import sys

from fleetnet import FleetError, serve_dtls, server_context, start_server


async def serve(reader, writer):
    try:
        writer.write(b"you said " + await reader.readline())
        await writer.drain()
    except FleetError as error:
        print("refused:", type(error).__name__, error)
    writer.close()
    await writer.wait_closed()


async def serve_datagrams(link):
    data = await link.receive(60_000)
    if data:
        link.send(b"you said " + data)


async def main(kind, host, port, *pairs):
    keys = {}
    for at in range(0, len(pairs), 2):
        keys[pairs[at]] = binascii.unhexlify(pairs[at + 1])
    context = server_context(psk=keys, datagram=kind == "dtls")
    if kind == "dtls":
        await serve_dtls(serve_datagrams, host, int(port), ssl=context)
    else:
        await start_server(serve, host, int(port), ssl=context)
    print("listening")
    await asyncio.Event().wait()  # for ever


asyncio.run(main(*sys.argv[1:]))
