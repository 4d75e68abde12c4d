"""Row 4: the client's side of mutual TLS: it verifies the server and shows its own certificate.

    mutual_client.py HOST PORT NAME CA CERT KEY
"""

import asyncio
import sys

from fleetnet import Rejected, client_context, open_connection


async def main(host, port, name, ca, cert, key):
    context = client_context(ca, cert, key)
    reader, writer = await open_connection(host, int(port), ssl=context, server_hostname=name)
    async with writer:
        writer.write(b"hello\n")
        await writer.drain()
        # TLS 1.3 refuses a client after the handshake: only an answer tells that it is in.
        answer = await reader.readline()
        if not answer:
            raise Rejected("the server closed without a word: see its log")
        print(answer.decode().strip())


asyncio.run(main(*sys.argv[1:]))
