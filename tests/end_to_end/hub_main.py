"""A hub that says what it was handed; run by MicroPython and CPython.

    hub_main.py FOLDER TLS_PORT DTLS_PORT OPTIONS

Port 0: not over this transport. OPTIONS: arguments of Hub as JSON, and "slow_ms": how long the
program thinks about each reading. Prints a line of JSON for each reading, [device, channel,
unix_ms, value, seq, kind], then one with {"heap", "refused", "why", "devices"} at the end of
its standard input.
"""

import asyncio
import gc
import json
import select
import sys

from fleetnet.hub import Hub
from fleetnet.ports import port


async def watch_input(hub):
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    while True:
        for _ in poller.poll(0):
            if not sys.stdin.read(1):
                await hub.stop()
                return
        await port.sleep_ms(50)


def line_of(reading):
    value = len(reading.value) if reading.kind == "raw" else reading.value
    return json.dumps(
        [reading.device, reading.channel, reading.unix_ms, value, reading.seq, reading.kind]
    )


async def main(folder, tls_port, dtls_port, options):
    slow_ms = options.pop("slow_ms", 0)
    paths = [folder + "/" + name for name in ("ca.der", "cert.der", "key.der")]
    hub = Hub(*paths, tls_port=tls_port or None, dtls_port=dtls_port or None, **options)
    heap = count = 0
    async with hub:
        print(json.dumps({"listening": True}))
        watching = asyncio.create_task(watch_input(hub))
        async for reading in hub.readings():
            print(line_of(reading))
            if slow_ms:
                await port.sleep_ms(slow_ms)
            count += 1
            if hasattr(gc, "mem_alloc") and count % 50 == 0:
                gc.collect()
                heap = max(heap, gc.mem_alloc())
        await watching
    said = {"heap": heap, "refused": hub.refused, "why": hub.last_refusal}
    said["devices"] = {n: [s.connects, s.received, s.lost] for n, s in hub.devices.items()}
    print(json.dumps(said))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])))
