"""Ask a time server on this machine; run by MicroPython and CPython: ntp_client.py PORT TIMEOUT_MS

Prints one JSON line: [unix ms or 0, error or ""].
"""

import asyncio
import json
import sys

from fleetnet.errors import Unreachable
from fleetnet_device import ntp


async def main(port, timeout_ms):
    try:
        print(json.dumps([await ntp.ask("127.0.0.1", timeout_ms, port), ""]))
    except Unreachable as error:
        print(json.dumps([0, str(error)]))


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
