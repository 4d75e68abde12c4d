"""Connect again and again and say how each try ended; run by MicroPython and CPython.

    try_connect.py BUNDLE TRIES [strip]

Each try opens a link with the bundle, and sends one reading once the session is open.
``strip`` turns verification off behind the context's back.
Prints one JSON line a try: [error class or "acknowledged", alert or null, reason or null,
message].
"""

import asyncio
import json
import os
import sys

from fleetnet.endpoint import Endpoint, open_link
from fleetnet.events import Delivered, Opened
from fleetnet.frame import READINGS, TELEMETRY
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet.streams import client_context
from fleetnet_device.credentials import Credentials


def context_of(credentials):
    """Return the bundle's context; without a certificate when the bundle has none."""
    files = os.listdir(credentials.folder)
    if "ca.der" not in files or "cert.der" in files:
        return credentials.context(credentials.transport == "dtls", False)
    return client_context(
        credentials.folder + "/ca.der", datagram=credentials.transport == "dtls"
    )


def strip(context):
    if hasattr(context.native, "set_verify"):
        context.native.set_verify(0)
    else:
        context.native.verify_mode = 0


async def attempt(credentials, is_stripped):
    """Return "acknowledged", or raise what the library raises."""
    server = credentials.servers[0]
    port_number = server.dtls_port if credentials.transport == "dtls" else server.tls_port
    context = context_of(credentials)
    if is_stripped:
        strip(context)
    link = await open_link(server.host, port_number, context, server.server_hostname, 5_000)
    session = Session(port.random_bytes)
    outcome = []

    def on_event(event):
        if isinstance(event, Opened):
            session.send(TELEMETRY, READINGS, b'[1700000000000,0,["secret"],[[0,0,1]]]')
        elif isinstance(event, Delivered):
            outcome.append("acknowledged")
            session.bye(port.ticks())

    session.open_link(port.ticks(), link.datagram)
    await Endpoint(session, link, on_event, 5_000).run()
    return outcome[0] if outcome else "nothing"


async def main(bundle, tries, is_stripped):
    for _ in range(tries):
        try:
            line = [await attempt(Credentials(bundle), is_stripped), None, None, ""]
        except Exception as error:
            alert, reason = getattr(error, "alert", None), getattr(error, "reason", None)
            line = [type(error).__name__, alert, reason, str(error)]
        print(json.dumps(line))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["strip"]))
