"""A hub before a back-end: a camera (MicroPython) or a Linux gateway with sensors of its own.

    hub_relay.py BUNDLE FOLDER TLS_PORT [DTLS_PORT]

BUNDLE is the hub's own, by which it reaches the back-end; what it keeps goes to BUNDLE/spool.
FOLDER holds ca.der (the anchor of the sensors), cert.der and key.der (by which they know the hub).
"""

import asyncio
import sys

from fleetnet.hub import Hub
from fleetnet_device import Device


async def main(bundle, folder, tls_port, dtls_port=None):
    paths = [folder + "/" + name for name in ("ca.der", "cert.der", "key.der")]
    async with Device(bundle, spool=bundle + "/spool", policy="newest") as device:
        relay = device.part("relay")
        async with Hub(*paths, tls_port=tls_port, dtls_port=dtls_port, relay=relay) as hub:
            print("listening")
            while True:
                here = [sensor.name for sensor in hub.devices.values() if sensor.is_online]
                await device.send("sensors", len(here))
                await asyncio.sleep(10)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *[int(number) for number in sys.argv[3:]]))
