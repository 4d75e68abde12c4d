"""P5: memory of an idle session. P7: from process start to the first handshake."""

import contextlib
import tempfile
import time
from pathlib import Path
from statistics import median

from device_links import device_context
from fleets import BENCH_SETTINGS, bundles, serve_command, serving
from mqtt_peer import broker_command, free_port
from processes import cores, program, resident_bytes, running

from fleetnet.errors import FleetError
from fleetnet_server.bench.handshakes import shake_hands

_WARM_UP = 100
_SETTLE_S = 1.0

# What P1 to P3 left in the store would be compacted meanwhile, and some 20 MB counted as sessions'.
_AT_REST = {"FLEETNET_COMPACTION": "false"}


def bytes_a_session(folder: Path, link: str, sessions: int, settings: dict[str, str]) -> float:
    """Return how much the server's resident set grows by an open, idle session.

    The first hundred are opened, left open and not counted: they pay for what is made once.

    Args:
        settings: of the server, as environment variables, beside those of the bench.
    """
    everyone = bundles(folder, _WARM_UP + sessions)
    groups = everyone[:_WARM_UP], everyone[_WARM_UP:]
    with serving(folder, {**_AT_REST, **settings}) as server:
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
    """Return the wall time from starting the server to the first complete handshake.

    The median of three starts.
    """
    number = free_port()
    settings = {**BENCH_SETTINGS, "FLEETNET_TLS_PORT": str(number)}
    return _median_start_s(folder, number, serve_command(folder), settings)


def broker_start_to_handshake_s(folder: Path) -> float:
    """Return the same of mosquitto, with the same certificates."""
    number = free_port()
    with tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name:
        command = broker_command(folder, Path(name), number)
        return _median_start_s(folder, number, command, {})


def _median_start_s(
    folder: Path, number: int, command: list[str], settings: dict[str, str]
) -> float:
    context = device_context(bundles(folder, 1)[0], "tls")
    took = []
    for _ in range(3):
        began = time.monotonic()
        with running(command, cores()[0], settings):
            while True:
                try:
                    shake_hands(context, number)
                    took.append(time.monotonic() - began)
                    break
                except (OSError, FleetError):
                    if time.monotonic() > began + 30:
                        raise
                    time.sleep(0.005)
    return median(took)
