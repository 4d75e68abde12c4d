"""A device that makes keys and certificate requests: run by test_csr.py on every interpreter.

    key_birth.py NAME COUNT

Prints a line for each: key.der and the request, in hexadecimal.
"""

import asyncio
import binascii
import sys

from fleetnet_device.csr import make_request, sec1
from fleetnet_device.p256 import make_key


async def main(name, count):
    for _ in range(count):
        private, public = await make_key()
        request = await make_request(name, private, public)
        key = binascii.hexlify(sec1(private, public)).decode()
        print(key, binascii.hexlify(request).decode())


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
