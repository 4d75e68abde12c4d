"""A hub of a sensor network: a camera (MicroPython) or a Linux gateway, no back-end.

    hub.py FOLDER TLS_PORT [DTLS_PORT]

FOLDER holds ca.der (the anchor of the sensors), cert.der and key.der (the hub's own).
"""

import asyncio
import sys

from fleetnet.hub import Hub


async def main(folder, tls_port, dtls_port=None):
    paths = [folder + "/" + name for name in ("ca.der", "cert.der", "key.der")]
    async with Hub(*paths, tls_port=tls_port, dtls_port=dtls_port) as hub:
        print("listening")
        async for reading in hub.readings():
            print(reading.device, reading.channel, reading.unix_ms, reading.value)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: hub.py FOLDER TLS_PORT [DTLS_PORT]")
    asyncio.run(main(sys.argv[1], *[int(number) for number in sys.argv[2:]]))
