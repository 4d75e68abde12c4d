"""Full mutual handshakes, one after the other, each closed at once.

    python handshake_load.py LINK PORT SECONDS BUNDLE

Prints {"ready": true} after ten handshakes that do not count, waits for a line, and prints
{"handshakes", "seconds", "version", "cipher"}. In TLS 1.3 the client is done before the
server has looked at its certificate: a handshake counts when the server has answered
close_notify by closing.
"""

import json
import select
import sys
import time

from device_links import SecureSocket, device_context

from fleetnet.ports.openssl_context import Context

_PATIENCE_S = 5.0


def _wait(link: SecureSocket) -> None:
    if not select.select([link.sock], [], [], _PATIENCE_S)[0]:
        raise RuntimeError("the server said nothing for 5 s")


def shake_hands(context: Context, number: int) -> tuple[str, str]:
    """Do one handshake; return (cipher, version)."""
    link = SecureSocket(context, "127.0.0.1", number)
    try:
        while not link.handshake():
            _wait(link)
        found = link.ssl.cipher()
        link.ssl.close_notify()
        link.transmit()
        while not link.datagram:
            _wait(link)
            try:
                if not link.sock.recv(65536):
                    break
            except ConnectionResetError:
                break
    finally:
        link.close()
    return found


def main(arguments: list[str]) -> None:
    link, number, seconds, bundle = arguments
    context = device_context(bundle, link)
    for _ in range(10):
        cipher, version = shake_hands(context, int(number))
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    count = 0
    began = time.monotonic()
    while time.monotonic() < began + float(seconds):
        shake_hands(context, int(number))
        count += 1
    sums = {"handshakes": count, "seconds": time.monotonic() - began}
    print(json.dumps({**sums, "version": version, "cipher": cipher}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
