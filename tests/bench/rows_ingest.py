"""P1, P2, P3: how many readings a second of CPU; and what their parts cost alone."""

import bounds as parts
import dtls_peers
import mqtt_peer
import telemetry
from figures import Row
from rows import Bench
from telemetry import Flow

UNIT = "readings/core-s"
_PEER = "mosquitto + aiomqtt + SQLite"


def _keep(bench: Bench, name: str, what: str, flow: Flow) -> None:
    bench.table.details[f"{name} {what}"] = {
        **flow._asdict(), "us_a_message": flow.us_a_message,
        "per_second": flow.readings / flow.wall_s,
    }  # fmt: skip


def _ours(
    bench: Bench, name: str, link: str, devices: int, readings: int, batched: bool
) -> Flow:  # fmt: skip
    flow = telemetry.measure(bench.folder, link, devices, readings, batched, bench.seconds)
    _keep(bench, name, link, flow)
    return flow


def _peer(
    bench: Bench, name: str, count: int, readings: int, batched: bool, style: str
) -> float | None:
    """Return what the pipeline does, None when there is none."""
    if mqtt_peer.mosquitto() is None:
        bench.table.note(f"{name}: mosquitto is not installed: no peer")
        return None
    bench.table.note(
        "P1, P3: the peer acknowledges when the broker has a message, before its commit: what the "
        "subscriber loses was acknowledged. fleetnet acknowledges behind the commit."
    )
    # What the broker has queued at the end takes the subscriber several times as long.
    seconds = max(1.0, bench.seconds / 3)
    flow = mqtt_peer.measure(bench.folder, count, readings, batched, style, seconds)
    _keep(bench, name, f"peer, {style}", flow)
    return flow.per_core_second


def _with_peers(
    bench: Bench,
    name: str,
    flows: list[tuple[str, Flow, float]],
    peers: tuple[float | None, float | None],
    ratio_target: float,
) -> None:
    rows, stored_bodies = peers
    for what, flow, target in flows:
        figure = flow.per_core_second
        bench.table.add(
            Row(name, what, figure, UNIT, target, peer_name=f"{_PEER}, a row a reading",
                peer=rows, ratio_target=ratio_target)
        )  # fmt: skip
        if stored_bodies is not None:
            peer_name = f"{_PEER}, a row a message"
            bench.table.add(
                Row(name, what, figure, UNIT, peer_name=peer_name, peer=stored_bodies)
            )  # fmt: skip


def p1(bench: Bench) -> None:
    """TLS, 20 readings a frame, 100 devices."""
    ours = _ours(bench, "P1", "tls", 100, 20, True)
    peers = (
        _peer(bench, "P1", 100, 20, True, "rows"),
        _peer(bench, "P1", 100, 20, True, "bodies"),
    )
    _with_peers(bench, "P1", [("TLS, 20 a frame", ours, 150_000)], peers, 2.0)


def p2(bench: Bench) -> None:
    """DTLS, 10 readings a datagram, 100 devices; beside servers that store nothing."""
    figure = _ours(bench, "P2", "dtls", 100, 10, True).per_core_second
    what = "DTLS, 10 a datagram, stored"
    limit = 10 * 1e6 / parts.on_measured_core(lambda: parts.receive_datagram_us(10))
    name = "bare recvfrom, the limit: no TLS, nothing done with it"
    bench.table.add(Row("P2", what, figure, UNIT, 100_000, peer_name=name, peer=limit))
    for peer in dtls_peers.PEERS:
        if not dtls_peers.is_there(peer):
            bench.table.note(f"P2: {peer.package} is not installed: no figure of {peer.what}")
            continue
        rate = dtls_peers.measure(bench.folder, peer, bench.seconds / 2)
        bench.table.add(Row("P2", what, figure, UNIT, peer_name=peer.what, peer=rate))
        bench.table.note(f"P2: {peer.what}: {peer.less}.")


def p3(bench: Bench) -> None:
    """One reading a frame, one frame a write or datagram, 1,000 devices."""
    flows = [
        ("TLS, one a frame", _ours(bench, "P3", "tls", 1000, 1, False), 45_000.0),
        ("DTLS, one a frame", _ours(bench, "P3", "dtls", 1000, 1, False), 50_000.0),
    ]
    peers = (
        _peer(bench, "P3", 1000, 1, False, "rows"),
        _peer(bench, "P3", 1000, 1, False, "bodies"),
    )
    _with_peers(bench, "P3", flows, peers, 2.5)


def bounds(bench: Bench) -> None:
    """What the parts cost alone."""
    found = parts.all_bounds()
    bench.table.details["bounds"] = found
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
        bench.table.add(Row("bound", what, found[key], "us"))
