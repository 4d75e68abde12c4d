"""Every metric of a back-end, from counters that exist anyway. docs/metrics.md lists them.

What can be counted begins at 0 with every value of its labels: the first one is an increase.
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from fleetnet import __version__, errors
from fleetnet.reasons import REASONS
from fleetnet_server.core.events import KINDS
from fleetnet_server.core.presence import HANDSHAKE_REASONS
from fleetnet_server.core.transport import LINKS
from fleetnet_server.web.auth import Gate
from fleetnet_server.web.looked_up import LookedUp
from fleetnet_server.web.ports import Bridge, Node, Running, Workers
from fleetnet_server.web.requests import Lag, Requests

_ENDS = ("ok", "error", "unknown", "expired", "lost")

# The names of the reason codes: labels are words, not sentences.
_NAMES = {
    REASONS[code]: name.lower().replace("_", "-")
    for name, code in vars(errors).items()
    if name.isupper() and code in REASONS
}
# Those of a REFUSE.
_REFUSALS = (
    "unknown-device", "disabled", "revoked", "no-identity", "overloaded", "store-unavailable",
    "version",
)  # fmt: skip


class Collector:
    """Reads a back-end's counters; implements prometheus_client's Collector."""

    def __init__(
        self, running: Running, requests: Requests, looked_up: LookedUp, lag: Lag, gate: Gate
    ):
        self._running = running
        self._requests = requests
        self._looked_up = looked_up
        self._lag = lag
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield _gauge("fleetnet_build_info", "Always 1.", {__version__: 1}, "version")
        yield from self._sessions()
        yield from self._admission()
        yield from self._messages()
        yield from self._store()
        yield from self._certificates()
        yield from self._services()
        if self._running.bridge is not None:
            yield from mqtt_metrics(self._running.bridge)
        if self._running.workers is not None:
            yield from worker_metrics(self._running.workers)
        if self._running.node is not None:
            yield from node_metrics(self._running.node, self._running)
        yield from self._http()

    def _sessions(self) -> Iterator[Metric]:
        presence = self._running.presence
        none = dict.fromkeys(LINKS, 0)
        online = {link: presence.online.get(link, 0) for link in (*LINKS, "hub")}
        yield _gauge("fleetnet_sessions", "Open sessions.", online, "link")
        yield _counter("fleetnet_sessions_opened", "Sessions opened.", presence.opened_count)
        yield _counter("fleetnet_sessions_ended", "Sessions ended.", presence.ended_count)
        refused = dict.fromkeys(_REFUSALS, 0)
        for text, count in presence.refused_counts.items():
            name = _NAMES.get(text, "other")
            refused[name] = refused.get(name, 0) + count
        yield _counters("fleetnet_sessions_refused", "Devices that got REFUSE.", refused, "reason")
        done = none | presence.handshakes
        yield _counters("fleetnet_handshakes", "Handshakes that succeeded.", done, "link")
        failed = CounterMetricFamily(
            "fleetnet_handshakes_refused", "Handshakes that failed.", labels=("link", "reason")
        )
        for link in LINKS:
            for reason in HANDSHAKE_REASONS:
                failed.add_metric((link, reason), presence.handshakes_refused[link, reason])
        yield failed
        devices = {"enabled": 0, "disabled": 0, "quarantined": 0, **self._looked_up.devices}
        yield _gauge("fleetnet_devices", "Registered devices.", devices, "state")

    def _admission(self) -> Iterator[Metric]:
        gate = self._running.sessions.gate
        doors = self._running.listeners.doors
        refused = {
            "address-rate": sum(door.limited for door in doors.values()),
            "no-place": sum(door.overloaded for door in doors.values()),
            "displaced": sum(door.displaced for door in doors.values()),
            "device-rate": gate.links.refused,
            "sessions-full": gate.full,
        }
        text = "Handshakes, links and sessions that were not begun."
        yield _counters("fleetnet_admission_refused", text, refused, "reason")
        pending = {link: len(door) for link, door in doors.items()}
        yield _gauge("fleetnet_handshakes_pending", "Handshakes under way.", pending, "link")
        herd = gate.herd
        yield _counter("fleetnet_herd_held", "Sessions that waited for their turn.", herd.held)
        yield _counter(
            "fleetnet_herd_refused", "Devices that were told when it is their turn.", herd.refused
        )
        yield _number("fleetnet_herd_awaited_devices", "Devices that are expected back.", herd.away)

    def _messages(self) -> Iterator[Metric]:
        router = self._running.router
        yield _counter(
            "fleetnet_readings_received", "Readings in good messages, repeated ones as well.",
            router.readings,
        )  # fmt: skip
        for name, text, value in (
            ("received", "Messages received.", router.received),
            ("stored", "Messages that became durable.", router.stored),
            ("duplicate", "Messages that were durable already.", router.duplicates),
            ("problem", "Messages whose body breaks a rule.", router.problems),
            ("lost", "Messages that devices gave up.", self._running.presence.lost),
        ):
            yield _counter(f"fleetnet_messages_{name}", text, value)
        live = self._running.live.refused
        yield _counter("fleetnet_live_readings_refused", "Live messages refused.", live)

    def _store(self) -> Iterator[Metric]:
        writer, router = self._running.writer, self._running.router
        yield _number(
            "fleetnet_store_backlog_messages", "Messages that wait for a commit.", writer.backlog
        )
        yield _number("fleetnet_store_available", "1: commits succeed.", writer.is_available)
        yield _number("fleetnet_store_windows_shut", "1: devices wait for it.", router.is_shut)
        yield HistogramMetricFamily(
            "fleetnet_store_commit_duration_seconds", "Time of a commit.",
            writer.took.cumulated(), writer.took.total,
        )  # fmt: skip
        sizes = self._looked_up.bytes
        yield _gauge("fleetnet_store_file_bytes", "Size of the store's files.", sizes, "file")
        yield _number(
            "fleetnet_store_free_bytes", "Room on the store's disk.", self._looked_up.free_bytes
        )
        workers = self._running.workers
        lost = self._running.audit.lost + (workers.audit_lost if workers is not None else 0)
        yield _counter("fleetnet_audit_rows_lost", "Rows of the audit log without room.", lost)

    def _certificates(self) -> Iterator[Metric]:
        looked_up = self._looked_up
        yield _gauge(
            "fleetnet_device_certificates", "Device certificates by urgency.",
            looked_up.certificates, "level",
        )  # fmt: skip
        ends = GaugeMetricFamily(
            "fleetnet_certificate_expiry_timestamp_seconds",
            "When the server's and the CAs' certificates end.", labels=("kind", "name"),
        )  # fmt: skip
        for one in looked_up.ends:
            ends.add_metric((one.kind, one.name), one.not_after_ms / 1000)
        yield ends
        yield _gauge(
            "fleetnet_certificate_nearest_expiry_timestamp_seconds",
            "When the next certificate of a kind ends.", looked_up.nearest, "kind",
        )  # fmt: skip

    def _services(self) -> Iterator[Metric]:
        blobs, events = self._running.blobs, self._running.events
        ended = dict.fromkeys(_ENDS, 0) | self._running.commands.ended
        yield _counters("fleetnet_commands_ended", "Commands by their end.", ended, "state")
        yield _counter("fleetnet_blobs_stored", "Blobs kept.", blobs.stored)
        yield _counter("fleetnet_blobs_refused", "Blobs refused.", blobs.refused)
        yield _counter("fleetnet_blobs_dropped", "Partial blobs given up.", blobs.dropped)
        counts = dict.fromkeys(KINDS, 0) | events.counts
        yield _counters("fleetnet_events", "What happened, by kind.", counts, "kind")
        yield _number("fleetnet_event_subscribers", "Who follows the events.", events.subscribers)
        yield _counter("fleetnet_events_dropped", "Events not delivered in time.", events.dropped)
        yield _counter(
            "fleetnet_event_subscribers_cut", "Subscribers cut off for being slow.", events.cut
        )
        left_out = self._running.tap.left_out
        yield _counter("fleetnet_messages_not_shown", "Messages left out of the feed.", left_out)

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "fleetnet_http_requests", "Answers over HTTP.", labels=("method", "status")
        )
        for (method, status), count in sorted(self._requests.counts.items()):
            requests.add_metric((method, str(status)), count)
        yield requests
        yield HistogramMetricFamily(
            "fleetnet_http_request_duration_seconds", "Time until an answer begins.",
            self._requests.took.cumulated(), self._requests.took.total,
        )  # fmt: skip
        yield _counters(
            "fleetnet_http_denied", "Requests without the right to what they ask for.",
            self._gate.refused, "reason",
        )  # fmt: skip
        yield _number(
            "fleetnet_loop_lag_seconds", "How late the event loop was, worst of 10 s.",
            self._lag.seconds,
        )  # fmt: skip


def mqtt_metrics(bridge: Bridge) -> Iterator[Metric]:
    """Yield what the bridge counts (docs/mqtt.md); there is none without mqtt.toml."""
    counters = bridge.counters
    yield _number("fleetnet_mqtt_connected", "1: the broker is connected.", bridge.is_connected)
    yield _number(
        "fleetnet_mqtt_behind_messages", "Stored messages that the broker lacks.", bridge.behind
    )
    yield _counter("fleetnet_mqtt_connections", "Connections opened.", counters.connections)
    yield _counter("fleetnet_mqtt_readings", "Readings that the broker took.", counters.readings)
    for name, text, label, values in (
        ("sent", "MQTT messages that the broker took.", "sort", counters.sent),
        ("dropped", "MQTT messages that will not be sent.", "reason", counters.dropped),
        ("requests", "MQTT requests by how they ended.", "state", counters.requests),
    ):
        yield _counters(f"fleetnet_mqtt_{name}", text, values, label)


def worker_metrics(workers: Workers) -> Iterator[Metric]:
    """Yield what differs between workers; all other numbers are sums over them."""
    states = {str(number): state for number, state in enumerate(workers.states())}
    up = {number: int(state.is_up) for number, state in states.items()}
    yield _gauge("fleetnet_worker_up", "1: it has told of itself.", up, "worker")
    sessions = {number: state.sessions for number, state in states.items()}
    yield _gauge("fleetnet_worker_sessions", "Sessions of a worker.", sessions, "worker")
    for name, text, values in (
        ("restarts", "Starts after its end.", {n: s.restarts for n, s in states.items()}),
        ("messages_received", "Messages.", {n: s.received for n, s in states.items()}),
        ("cpu_seconds", "Time of a core.", {n: s.cpu_s for n, s in states.items()}),
    ):
        yield _counters(f"fleetnet_worker_{name}", text, values, "worker")


def node_metrics(node: Node, running: Running) -> Iterator[Metric]:
    """Yield how a server stands among those at one database."""
    yield _gauge("fleetnet_node_up", "1, with the server's name.", {node.name: 1}, "node")
    yield _number("fleetnet_nodes", "Servers at the database that run.", node.alive)
    leads = int(node.leads())
    yield _number("fleetnet_node_leads", "1: it does what one does for all.", leads)
    text = "Age of the registry that it goes by."
    yield _number("fleetnet_replica_lag_seconds", text, node.lag_s)
    lost = running.sessions.entering.taken_count
    yield _counter("fleetnet_leases_lost", "Sessions that went on at another server.", lost)
    text = "Messages that devices send again to another server."
    yield _counter("fleetnet_messages_left_to_others", text, running.router.lost)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _number(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _counters(name: str, text: str, values: Mapping[str, float], label: str) -> Metric:
    made = CounterMetricFamily(name, text, labels=(label,))
    for key, value in sorted(values.items()):
        made.add_metric((key,), value)
    return made


def _gauge(name: str, text: str, values: Mapping[str, float], label: str) -> Metric:
    made = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in sorted(values.items()):
        made.add_metric((key,), value)
    return made
