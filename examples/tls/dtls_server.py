"""Row 6: a DTLS server on the camera for several clients at a time.

    dtls_server.py HOST PORT CERT KEY [CLIENT_CA]

A client gets state here only after it has shown the cookie of a HelloVerifyRequest, which
proves its address (RFC 6347 section 4.2.1). A client that comes back from the same address, a
rebooted camera, replaces its former association.
"""

import asyncio
import sys

from fleetnet import LinkError, serve_dtls, server_context


async def serve(link):
    print("client", link.peer[0])
    try:
        while True:
            data = await link.receive(60_000)
            if data is None:
                break  # silence: DTLS has no end of file
            link.send(b"echo " + data)
    except LinkError as error:
        print("gone:", error)
    link.close()


async def main(host, port, cert, key, client_ca=None):
    context = server_context(cert, key, client_ca, datagram=True)
    await serve_dtls(serve, host, int(port), ssl=context)
    print("listening")
    await asyncio.Event().wait()  # for ever


asyncio.run(main(*sys.argv[1:]))
