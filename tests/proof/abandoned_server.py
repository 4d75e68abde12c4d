"""The server of abandoned.py, in a process of its own: the product's DTLS listener, and a window.

    abandoned_server.py FOLDER CAP TIMEOUT_S [keep]

FOLDER has ca.der, cert.der and key.der. Prints {"port": N}; answers every line of standard input
with {"half_open", "peak", "timers", "places", "opened", "refused", "private_kib"}. ``keep`` is the
control: nobody sweeps.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from fleetnet.ports.openssl_context import server_context
from fleetnet_server.net.dtls import DtlsListener
from listening import Echo
from proof.soak import private_kib

NEVER_S = 1e9


class Watched:
    """The listener, and how many handshakes it ever had under way."""

    def __init__(self, folder: Path, cap: int, timeout_s: float):
        names = ("cert.der", "key.der", "ca.der")
        certificate, key, anchor = ((folder / name).read_bytes() for name in names)
        self.listener = DtlsListener(
            server_context(certificate, key, anchor, datagram=True),
            lambda transport, _certificate: Echo(transport),
            lambda *_: None,
            max_handshakes=cap,
            handshake_timeout_s=timeout_s,
        )
        self.peak = 0
        self._admit = self.listener.acceptor.admit
        self.listener.acceptor.admit = self._note

    def _note(self, address: Any) -> bool:
        admitted = self._admit(address)
        under_way = len(self.listener.acceptor.half_open)
        self.peak = max(self.peak, under_way + admitted)
        return admitted

    def figures(self) -> dict[str, int]:
        acceptor = self.listener.acceptor
        return {
            "half_open": len(acceptor.half_open),
            "peak": self.peak,
            "timers": len(acceptor._timers),
            "places": len(self.listener.door),
            "opened": acceptor.handshakes,
            "refused": acceptor.refused,
            "private_kib": private_kib("self"),
        }


async def main(folder: str, cap: str, timeout_s: str, *keep: str) -> None:
    watched = Watched(Path(folder), int(cap), NEVER_S if keep else float(timeout_s))
    await watched.listener.start("127.0.0.1", 0)
    print(json.dumps({"port": watched.listener.port}), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(watched.figures()), flush=True)
    watched.listener.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
