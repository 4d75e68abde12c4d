"""P12, and what there is beside the targets: the bridge to a broker, PostgreSQL."""

import shutil

import history
import mqtt_bridge
import mqtt_peer
from figures import Row
from rows import Bench

_BYTES_A_READING = 50


def p12(bench: Bench) -> None:
    """1,000 readings of one channel by time, out of many millions, while more come."""
    readings = min(bench.stored, 1_000_000) if bench.quick else bench.stored
    if shutil.disk_usage(bench.folder).free < _BYTES_A_READING * readings:
        needed = _BYTES_A_READING * readings >> 20
        raise OSError(f"P12 needs {needed} MiB of free disk in {bench.folder.parent}")
    path = bench.folder / "history.db"
    options = history.parser().parse_args([str(readings), "--seconds", str(bench.seconds)])
    try:
        seen = history.measure(options, path)
    finally:
        path.unlink(missing_ok=True)
    bench.table.details["P12"] = seen
    what = f"1,000 readings of one channel, {seen['stored_readings'] / 1e6:.0f} million stored"
    name = "a bare SQLite table, a row a reading, a million, warm"
    for beside, key in (
        ("alone", "alone"), ("beside ingest", "ingest"),
        ("beside ingest and compaction", "compacting"),
    ):  # fmt: skip
        figure, peer = seen[f"{key}_query_p50_ms"], seen["plain_query_p50_ms"]
        bench.table.add(
            Row("P12", f"{what}, median, {beside}", figure, "ms", 5.0, at_most=True,
                peer_name=f"{name}, alone", peer=peer)
        )  # fmt: skip
        bench.table.add(
            Row("P12", f"{what}, 99 of 100, {beside}", seen[f"{key}_query_p99_ms"], "ms")
        )
    bench.table.add(
        Row("P12", "file, for each reading", seen["bytes_a_reading"], "B", peer_name=name,
            peer=seen["plain_bytes_a_reading"])
    )  # fmt: skip
    if readings < 100_000_000:
        bench.table.note(
            f"P12: {readings / 1e6:.0f} million stored, not the target's 100: "
            "--stored 100000000 takes 10 to 20 minutes and 5 GB."
        )


def mqtt(bench: Bench) -> None:
    """The bridge into mosquitto, with batches and without."""
    if mqtt_peer.mosquitto() is None:
        bench.table.note("MQTT: mosquitto is not installed")
        return
    messages = 2000 if bench.quick else 10_000
    for mode, readings in (("batch", 20), ("single", 1)):
        ours, peers = mqtt_bridge.measure(mode, messages, readings)
        what = f"bridge to mosquitto, {readings} a message"
        for in_flight, peer in peers.items():
            name = f"bare aiomqtt, QoS 1, {in_flight} in flight"
            for unit, attribute in (
                ("readings/s", "per_second"), ("readings/core-s", "per_core_second"),
            ):  # fmt: skip
                figure, theirs = getattr(ours, attribute), getattr(peer, attribute)
                bench.table.add(Row("MQTT", what, figure, unit, peer=theirs, peer_name=name))
        bench.table.details[f"MQTT {mode}"] = {
            "ours": ours._asdict(), **{str(key): one._asdict() for key, one in peers.items()}
        }  # fmt: skip


def postgres(bench: Bench) -> None:
    """Commits into PostgreSQL, beside a bare COPY and beside SQLite."""
    try:
        import postgres_ingest
    except ImportError as error:
        bench.table.note(f"POSTGRES: {error}: pip install 'fleetnet[postgres]' pytest")
        return
    if not postgres_ingest.is_there():
        bench.table.note("POSTGRES: postgresql is not installed")
        return
    for readings, style in ((20, "numbers"), (20, "text"), (1, "numbers")):
        rates = postgres_ingest.measure(bench.seconds * 2 / 3, readings, style)
        what = f"commits into PostgreSQL, {readings} a message, {style}"
        target = 100_000 if (readings, style) == (20, "numbers") else None
        for name, peer in (
            ("bare COPY of the same rows", rates.bare),
            ("SQLite, the same batches", rates.sqlite),
        ):
            bench.table.add(
                Row("POSTGRES", what, rates.ours, "readings/s", target, peer=peer, peer_name=name)
            )  # fmt: skip
        bench.table.details[f"POSTGRES {readings} {style}"] = rates._asdict()
