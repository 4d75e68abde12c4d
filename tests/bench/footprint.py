"""P5: memory of an idle session. P7: from process start to the first handshake."""

import contextlib
import time
from pathlib import Path

from device_links import device_context
from fleets import bundles, serve_command, server_environment, serving
from mqtt_peer import free_port
from processes import cores, program, resident_bytes, running

from fleetnet.errors import FleetError
from fleetnet_server.bench.handshakes import shake_hands

_WARM_UP = 100
_SETTLE_S = 1.0


def bytes_a_session(folder: Path, link: str, sessions: int) -> float:
    """Return how much the server's resident set grows by an open, idle session.

    The first hundred are opened, left open and not counted: they pay for what is made once.
    """
    everyone = bundles(folder, _WARM_UP + sessions)
    groups = everyone[:_WARM_UP], everyone[_WARM_UP:]
    with serving(folder) as server:
        number = server.dtls_port if link == "dtls" else server.tls_port
        before = 0
        with contextlib.ExitStack() as stack:
            loads = []
            for group in groups:
                before = resident_bytes(server.process.pid)
                command = program("session_load.py", link, str(number), "1", "0", "0", *group)
                load = stack.enter_context(running(command, cores()[1]))
                loads.append(load)
                load.answer(90)
                time.sleep(_SETTLE_S)
            grown = resident_bytes(server.process.pid) - before
            for load in loads:
                load.finish(15)
    return grown / sessions


def start_to_handshake_s(folder: Path) -> float:
    """Return the wall time from starting the process to the first complete handshake."""
    number = free_port()
    settings = {**server_environment(), "FLEETNET_TLS_PORT": str(number)}
    context = device_context(bundles(folder, 1)[0], "tls")
    began = time.monotonic()
    with running(serve_command(folder), cores()[0], settings):
        while True:
            try:
                shake_hands(context, number)
                return time.monotonic() - began
            except (OSError, FleetError):
                if time.monotonic() > began + 30:
                    raise
                time.sleep(0.005)
