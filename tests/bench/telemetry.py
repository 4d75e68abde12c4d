"""P1, P2, P3: readings stored durably and acknowledged per second of the server's CPU."""

import os
from pathlib import Path
from typing import NamedTuple

from fleets import bundles, empty_store, serving, stored
from processes import cores, cpu_seconds, program, running


class Flow(NamedTuple):
    """What one telemetry row measured."""

    readings: int
    cpu_s: float
    wall_s: float
    load_cpu_s: float
    resent: int
    messages: int

    @property
    def per_core_second(self) -> float:
        return self.readings / self.cpu_s

    @property
    def us_a_message(self) -> float:
        return 1e6 * self.cpu_s / self.messages


def measure(
    folder: Path, link: str, devices: int, readings: int, batched: bool, seconds: float
) -> Flow:
    """Load a fresh server for ``seconds``.

    Raises:
        RuntimeError: acknowledged and stored do not agree.
    """
    empty_store(folder)
    with serving(folder) as server:
        number = server.dtls_port if link == "dtls" else server.tls_port
        command = program(
            "session_load.py", link, str(number), str(readings), str(int(batched)), str(seconds),
            *bundles(folder, devices),
        )  # fmt: skip
        with running(command, cores()[1]) as load:
            load.answer(90)
            os.sync()
            before = cpu_seconds(server.process.pid)
            load.say("go")
            sums = load.answer(seconds + 90)
            cpu_s = cpu_seconds(server.process.pid) - before
            load.finish(15)
    messages, count = stored(folder)
    if not messages == sums["acknowledged"] == sums["sent"] or count != messages * readings:
        raise RuntimeError(
            f"{link}: {sums['sent']} messages sent, {sums['acknowledged']} acknowledged, "
            f"{messages} stored with {count} readings"
        )
    return Flow(count, cpu_s, sums["seconds"], sums["cpu"], sums["resent"], messages)
