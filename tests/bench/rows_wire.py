"""P10, P11: what a device's readings and frames cost on the wire."""

from statistics import median

import frames
import handshakes
import mqtt_peer
import wire
from figures import Row
from rows import Bench
from wire import Cost

from fleetnet_server.sim.interpreters import micropythons

_ALONE = "MQTT 3.1.1, QoS 1, TLS, one reading a message"
_BATCHED = "MQTT 3.1.1, QoS 1, TLS, 20 a message"


def p10(bench: Bench) -> None:
    """Bytes, round trips and heap of readings of 20 B, 20 a batch, beside MQTT."""
    found = micropythons()
    if not found:
        bench.table.note("P10: no MicroPython here: see tools/get_micropython.sh")
        return
    interpreter, version = found[0]
    batches = 5 if bench.quick else 50
    peers: list[tuple[str, Cost | None, float]] = [(_ALONE, None, 0.5), (_BATCHED, None, 1.0)]
    if mqtt_peer.mosquitto() is None:
        bench.table.note("P10: mosquitto is not installed: no peer")
    else:
        peers = [
            (_ALONE, wire.mqtt(interpreter, bench.folder, 1, 2 * batches), 0.5),
            (_BATCHED, wire.mqtt(interpreter, bench.folder, 20, batches), 1.0),
        ]
    bench.table.note(
        f"P10: both ends of it are programs of MicroPython {version}; the peer's is 100 lines that "
        "send, wait, and give up with their connection."
    )
    for link in ("tls", "dtls"):
        ours = wire.ours(interpreter, bench.folder, link, batches)
        bench.table.details[f"P10 {link}"] = ours._asdict()
        for name, peer, ratio_target in peers:
            _beside(bench, f"{link.upper()}, 20 a batch", ours, name, peer, ratio_target)
    for name, peer, _ in peers:
        bench.table.details[f"P10 {name}"] = peer._asdict() if peer else None


def _beside(
    bench: Bench, what: str, ours: Cost, name: str, peer: Cost | None, ratio_target: float
) -> None:  # fmt: skip
    bench.table.add(
        Row("P10", f"{what}, IP packets both ways, a reading of 20 B", ours.wire, "B",
            at_most=True, peer_name=name, peer=peer.wire if peer else None,
            ratio_target=ratio_target)
    )  # fmt: skip
    for text, attribute, unit, scale in (
        ("of it records of TLS or DTLS", "records", "B", 1),
        ("round trips of a batch", "batch_trips", "", 1),
        ("round trips to the first acknowledgement", "first_trips", "", 1),
        ("IP packets to the first acknowledgement", "connect_wire", "B", 1),
        ("steady mem_alloc, source imported", "heap", "KiB", 1024),
    ):
        if peer is not None and name == _ALONE and attribute != "records":
            continue  # the same connection, and a message of either is one round trip
        theirs = getattr(peer, attribute) / scale if peer else None
        figure = getattr(ours, attribute) / scale
        bench.table.add(Row("P10", f"{what}, {text}", figure, unit, peer_name=name, peer=theirs))


def p11(bench: Bench) -> None:
    """A frame of 60 KB over a network of 80 ms, with and without loss."""
    found = micropythons()
    if not found:
        bench.table.note("P11: no MicroPython here: see tools/get_micropython.sh")
        return
    interpreter, version = found[0]
    name = "libcoap's coap-client-openssl, blocks of 1,024 B"
    if handshakes.coap_client() is None:
        bench.table.note("P11: coap-client-openssl (Debian: libcoap3-bin) is absent: no peer")
    for loss, target, count in ((0.0, 8, 9), (0.1, 20, 21)):
        seen = frames.ours(interpreter, bench.folder, loss, count // 3 if bench.quick else count)
        bench.table.details[f"P11 {loss}"] = seen
        peer = None
        # With loss it takes minutes: RFC 7252 waits 2 s and more for each lost block.
        if handshakes.coap_client() is not None and not loss:
            peer = frames.libcoap(bench.folder)
        what = f"frame of 60 KB, DTLS, 80 ms, {100 * loss:.0f} % lost, MicroPython {version}"
        bench.table.add(
            Row("P11", f"{what}, median of {len(seen)}", median(seen), "round trips", target,
                at_most=True, peer_name=name if peer else "", peer=peer)
        )  # fmt: skip
        bench.table.add(Row("P11", f"{what}, longest", seen[-1], "round trips"))
