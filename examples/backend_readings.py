"""A back-end inside a program of your own: watch readings, act on one of them.

    backend_readings.py FOLDER [LIMIT]

Prints every reading of channel `temp`; above LIMIT it tells the device to cool. Ctrl-C ends it.
"""

import asyncio
import sys

from fleetnet_server import Fleet, Reading
from fleetnet_server.errors import CommandError


async def main(folder: str, limit: float = 30.0) -> None:
    async with Fleet(folder) as fleet:

        @fleet.on_reading(channel="temp")
        async def cool(reading: Reading) -> None:
            if reading.value > limit:
                try:
                    print("cooled:", await fleet.device(reading.device).call("cool", seconds=5))
                except CommandError as error:
                    print("not cooled:", error)

        print("listening", flush=True)
        async for reading in fleet.readings(channel="temp"):
            print(reading.device, reading.unix_ms, reading.value, flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: backend_readings.py FOLDER [LIMIT]")
    asyncio.run(main(sys.argv[1], *[float(text) for text in sys.argv[2:]]))
