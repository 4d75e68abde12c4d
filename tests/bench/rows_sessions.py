"""P4 to P7: sessions: how they begin, and what they cost when nothing is said."""

import subprocess

import footprint
import handshakes
import idle_fleet
import mqtt_peer
from figures import Row
from idle_costs import Standing, costs
from rows import Bench


def p4(bench: Bench) -> None:
    """Full mutual handshakes."""
    unit = "handshakes/core-s"
    seconds = bench.seconds * 2 / 3
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout
    # TLS 1.2 is what boards speak.
    for link in ("tls12", "tls"):
        ours = handshakes.fleetnet(bench.folder, link, seconds)
        peer = handshakes.s_server(bench.folder, link, seconds)
        bench.table.add(
            Row("P4", f"{ours.version}, mutual, P-256", ours.per_core_second, unit,
                peer_name="openssl s_server " + " ".join(version.split()[1:2]),
                peer=peer.per_core_second, ratio_target=1.5)
        )  # fmt: skip
    ours = handshakes.fleetnet(bench.folder, "dtls", seconds)
    rate = None
    if handshakes.coap_server() is None:
        bench.table.note("P4: coap-server-openssl (Debian: libcoap3-bin) is absent: no peer")
    else:
        rate = handshakes.libcoap(bench.folder, seconds).per_core_second
    bench.table.add(
        Row("P4", f"{ours.version}, mutual, P-256", ours.per_core_second, unit,
            peer_name="libcoap's coap-server-openssl", peer=rate, ratio_target=2.0)
    )  # fmt: skip


def p5(bench: Bench) -> None:
    """Memory of an idle session."""
    sessions = 300 if bench.quick else 1000
    off = {"FLEETNET_COMPACT_DTLS": "false"}
    links: list[tuple[str, str, float, dict[str, str]]] = [
        ("tls12", "TLS 1.2", 40, {}), ("tls", "TLS 1.3", 48, {}), ("dtls", "DTLS 1.2", 8, {}),
        ("dtls", "DTLS 1.2, compact_dtls = false", 85, off),
    ]  # fmt: skip
    for link, what, target, settings in links:
        size = footprint.bytes_a_session(bench.folder, link, sessions, settings) / 1024
        bench.table.add(Row("P5", f"{what}, idle session", size, "KiB", target, at_most=True))


def p6(bench: Bench) -> None:
    """A fleet that keeps alive, and says nothing else."""
    found, why = idle_fleet.measure(bench.quick, 10.0 if bench.quick else 60.0)
    most = found["tls"][-1].sessions
    if why:
        bench.table.note(f"P6: {most:,} sessions, not {idle_fleet.SIZES[-1]:,}: {why}.")
    bench.table.details["P6"] = {
        name: [one._asdict() for one in standings] for name, standings in found.items()
    }
    peer = found.get("mosquitto")
    if peer is None:
        bench.table.note("P6: mosquitto is not installed: no peer")
    for link, what in (("tls", "TLS 1.2"), ("dtls", "DTLS 1.2")):
        _idle(bench, what, found[link], peer)


def _idle(bench: Bench, what: str, ours: list[Standing], peer: list[Standing] | None) -> None:
    """Add the rows of one transport; the first standing has ten sessions."""
    name = "mosquitto, TLS"
    theirs = peer[-1].share if peer else None
    last = ours[-1]
    bench.table.add(
        Row("P6", f"{what}, {last.sessions:,} idle, CPU of a core", last.share, "%", 5.0,
            at_most=True, peer_name=name, peer=theirs)
    )  # fmt: skip
    found = costs(ours)
    for cost in found[:-1]:
        # So few may cost less than the server's own load changes by.
        said = "us" if cost.us > 0 else "too little to tell,"
        # Cheaper in a large fleet is no fault: one turn of the loop then serves several.
        bench.table.add(
            Row("P6", f"{what}, CPU of a session in a second, {found[-1].sessions:,} idle",
                found[-1].us, "us", at_most=True, peer_name=f"{said} with {cost.sessions:,} idle",
                peer=cost.us if cost.us > 0 else None, ratio_target=1.25)
        )  # fmt: skip
    for index, cost in enumerate(found):
        bench.table.add(
            Row("P6", f"{what}, memory of a session, {cost.sessions:,} idle", cost.kib, "KiB",
                peer_name=name, peer=costs(peer)[index].kib if peer else None)
        )  # fmt: skip


def p7(bench: Bench) -> None:
    """Start to the first handshake."""
    began = footprint.start_to_handshake_s(bench.folder)
    peer = None
    if mqtt_peer.mosquitto() is None:
        bench.table.note("P7: mosquitto is not installed: no peer")
    else:
        peer = footprint.broker_start_to_handshake_s(bench.folder)
    bench.table.add(
        Row("P7", "start to first handshake, median of 3", began, "s", 1.0, at_most=True,
            peer_name="mosquitto", peer=peer)
    )  # fmt: skip
