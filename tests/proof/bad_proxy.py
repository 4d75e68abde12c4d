"""The bad network of bad_datagrams.py in a process of its own.

    python bad_proxy.py HOST PORT SEED FAULTS        FAULTS: JSON, as tests/bad_network.py's Faults

Prints {"port"}; at the end of its standard input what it did, both ways together.
"""

import asyncio
import json
import sys
from collections import Counter

from bad_network import Faults, UdpProxy


async def main(host: str, number: str, seed: str, faults: str) -> None:
    up, down = (Faults(**json.loads(faults)) for _ in range(2))
    proxy = UdpProxy((host, int(number)), int(seed), up, down)
    await proxy.start()
    print(json.dumps({"port": proxy.address[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    total: Counter[str] = proxy.up.counters + proxy.down.counters
    print(json.dumps(total), flush=True)
    await proxy.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
