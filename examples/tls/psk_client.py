"""Row 9: a pre-shared key in place of certificates, over TLS or DTLS.

    psk_client.py tls|dtls HOST PORT IDENTITY HEXKEY

Both ends prove that they know the key; neither sends it.
"""

import asyncio
import binascii
import sys

from fleetnet import client_context, open_connection, open_dtls


async def main(kind, host, port, identity, key):
    psk = (identity, binascii.unhexlify(key))
    if kind == "dtls":
        link = await open_dtls(host, int(port), ssl=client_context(psk=psk, datagram=True))
        link.send(b"hello\n")
        answer = await link.receive(5000)
        print(link.cipher()[0])
        print(answer.decode().strip())
        link.close()
        return
    reader, writer = await open_connection(host, int(port), ssl=client_context(psk=psk))
    async with writer:
        writer.write(b"hello\n")
        await writer.drain()
        print(writer.cipher()[0])
        print((await reader.readline()).decode().strip())


asyncio.run(main(*sys.argv[1:]))
