"""A DTLS server that echoes; run by MicroPython.

    datagram_server.py FILE

FILE holds JSON: "port", "cert", "key", "ca" or "psk", and "limits": names and values of
constants of micropython_dtls_server that a test wants smaller. Prints one JSON line for each
thing that happens: "listening", "up", "ended", "state"; or {"error"}.

What a client sends: "state" prints the counters, "nap" makes its callback read
nothing for 400 ms, "end" ends it, "end all" the server; all else is echoed.
"""

import asyncio
import binascii
import hashlib
import json
import sys

from fleetnet.errors import FleetError
from fleetnet.streams import serve_dtls, server_context


def say(**what):
    print(json.dumps(what))


async def main(options):
    if options.get("limits"):
        from fleetnet.ports import micropython_dtls_server as module

        for name, number in options["limits"].items():
            setattr(module, name, number)
    psk = options.get("psk")
    if psk:
        psk = {name: binascii.unhexlify(key) for name, key in psk.items()}
    try:
        context = server_context(
            options.get("cert"), options.get("key"), options.get("ca"), datagram=True, psk=psk
        )
        listener = await serve_dtls(serve, "127.0.0.1", options["port"], context)
    except FleetError as error:
        say(error=type(error).__name__, text=str(error))
        return
    known.append(listener)
    say(listening=listener.port)
    await ended.wait()
    listener.close()
    await listener.wait_closed()
    say(closed=len(known) - 1)


async def serve(datagrams):
    known.append(datagrams)
    certificate = datagrams.peer_certificate()
    say(
        up=datagrams.peer,
        cipher=datagrams.cipher(),
        verified=datagrams.verified,
        certificate=certificate and binascii.hexlify(hashlib.sha256(certificate).digest()).decode(),
    )
    try:
        while True:
            data = await datagrams.receive()
            if data == b"state":
                listener = known[0]
                say(
                    clients=len(listener._clients),
                    newcomers=len(listener._newcomers),
                    refused=listener.refused,
                    last=type(listener.last_refusal).__name__,
                )
            elif data == b"nap":
                await asyncio.sleep_ms(400)
            elif data == b"end":
                return
            elif data == b"end all":
                ended.set()
            else:
                datagrams.send(b"echo " + data)
    except FleetError as error:
        say(ended=datagrams.peer, error=type(error).__name__)
        raise


known = []
ended = asyncio.Event()
with open(sys.argv[1]) as file:
    given = json.load(file)
asyncio.run(main(given))
