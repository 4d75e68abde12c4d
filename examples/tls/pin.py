"""Row 3: what to trust: a root, an intermediate, the server's own certificate, or its key.

    pin.py HOST PORT NAME root.der|intermediate.der|leaf.der
    pin.py HOST PORT NAME SHA256

SHA256 is that of the server's public key, 64 hexadecimal digits:
    openssl x509 -in server.pem -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum
It needs neither CA nor clock nor name, and outlives a renewal that keeps the key.
"""

import asyncio
import sys

from fleetnet import client_context, open_connection


def trust(what):
    if len(what) == 64 and "." not in what:
        return client_context(pins=[what])  # a list: the next key goes in before it is used
    return client_context(what)


async def main(host, port, name, what):
    reader, writer = await open_connection(host, int(port), ssl=trust(what), server_hostname=name)
    async with writer:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await writer.drain()
        print("verified:", writer.verified)
        print((await reader.readline()).decode().strip())


asyncio.run(main(*sys.argv[1:]))
