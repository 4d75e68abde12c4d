"""Row 1: ``ssl=True`` with asyncio, as it is written for a camera.

    encrypt_only_asyncio.py HOST PORT

MicroPython has no certificate store: it encrypts, verifies nobody, and says so once. CPython
verifies against the system's store. ``ssl=client_context(insecure=True)`` is the same on both.
"""

import asyncio
import sys

from fleetnet import open_connection


async def main(host, port):
    reader, writer = await open_connection(host, int(port), ssl=True)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    await writer.drain()
    print("verified:", writer.verified)
    print((await reader.read(4096)).decode())
    writer.close()
    await writer.wait_closed()


asyncio.run(main(*sys.argv[1:]))
