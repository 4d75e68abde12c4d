"""Full mutual handshakes, eight under way at once, each closed when it is done.

    python handshake_load.py LINK PORT SECONDS BUNDLE

Prints {"ready": true} after ten handshakes that do not count, waits for a line, and prints
{"handshakes", "seconds", "version", "cipher"}.
"""

import json
import sys
import time

from device_links import device_context

from fleetnet_server.bench.handshakes import shake_hands, shake_many


def main(arguments: list[str]) -> None:
    link, number, seconds, bundle = arguments
    context = device_context(bundle, link)
    for _ in range(10):
        cipher, version = shake_hands(context, int(number))
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    count = shake_many(context, int(number), float(seconds))
    sums = {"handshakes": count, "seconds": time.monotonic() - began}
    print(json.dumps({**sums, "version": version, "cipher": cipher}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
