"""Load generator of the telemetry rows, and holder of the idle sessions.

    python session_load.py LINK PORT READINGS BATCHED SECONDS BUNDLE...

LINK: tls, tls12, dtls. READINGS: readings a message. BATCHED: 1: fill the window of one
device after the other; 0: one message a visit, one frame a write or datagram. Prints
{"open": N}, waits for a line, loads for SECONDS, waits until everything is acknowledged,
prints the sums, and ends when its standard input does.
"""

import json
import sys
import time

from device_links import device_context
from payloads import body

from fleetnet_server.bench.sessions import Load

_AT_ONCE = 100


def main(arguments: list[str]) -> None:
    link, number, readings, batched, seconds = arguments[:5]
    load = Load(link == "dtls", int(number), 64 if batched == "1" else 1)
    used = arguments[5:]
    # A server waits 15 s for the first frame: sessions begin before the next have connected.
    for at in range(0, len(used), _AT_ONCE):
        group = used[at : at + _AT_ONCE]
        load.add(
            [device_context(bundle, link) for bundle in group],
            [body(int(readings), at + index) for index in range(len(group))],
        )
    print(json.dumps({"open": len(load.devices)}), flush=True)
    if not sys.stdin.readline():
        load.say_goodbye()
        return
    began = time.monotonic()
    cpu = time.process_time()
    if float(seconds) > 0:
        load.run(float(seconds))
        load.drain()
    sums = {**load.sums(), "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(sums), flush=True)
    sys.stdin.readline()
    load.say_goodbye()


if __name__ == "__main__":
    main(sys.argv[1:])
