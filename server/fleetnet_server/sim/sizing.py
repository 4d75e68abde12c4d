"""What a fleet of a given size needs, and what it costs: arithmetic on named figures.

    for row in rows(size_of(100_000)):
        print(row.what, row.text, row.how)
    size_of(100_000, message_every_s=10, price_core=9.5)

A figure was measured here, is a setting of fleetnet, or is assumed. Each may be changed by its
name (`fleetnet plan size --set`), the assumed ones should be. docs/scaling.md is made from
this by tools/scaling_page.py.
"""

import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fleetnet_server.errors import ConfigError

_DAY_S = 86_400
_MONTH_S = 30 * _DAY_S
_KB, _GB = 1024, 1 << 30

MEASURED, SETTING, ASSUMED = "measured", "setting", "assumed"


class Figure(NamedTuple):
    """A number that the arithmetic takes, with where it is from.

    Attributes:
        origin: MEASURED, SETTING or ASSUMED. unit: as in prose. why: how it was measured, or
            what it stands for.
    """

    value: float
    unit: str
    origin: str
    why: str


FIGURES: dict[str, Figure] = {
    # -- what the devices do
    "message_every_s": Figure(60, "s", ASSUMED, "a device sends a message so often"),
    "readings": Figure(5, "a message", ASSUMED, "readings in it"),
    "body_bytes": Figure(80, "B", ASSUMED, "a message's body"),
    "datagrams": Figure(0.5, "of all", ASSUMED, "devices over DTLS, the others over TLS"),
    # -- what was measured of fleetnet
    "message_ms": Figure(
        0.19, "ms of CPU", MEASURED,
        "`fleetnet sim`: 1,000 devices, a message a second each, commits and "
        "acknowledgements included. Under full load 0.03 (TLS) to 0.08 (`fleetnet bench`)",
    ),
    "reading_us": Figure(
        0.5, "us of CPU", MEASURED, "each reading more in a message: P1 and P3 of benchmarks.md"
    ),
    "session_ms": Figure(
        1.6, "ms of CPU", MEASURED,
        "to let a device in: `fleetnet bench`, other programs beside it; 0.75 in P4 of "
        "benchmarks.md",
    ),
    "stream_kb": Figure(39, "KiB", MEASURED, "a session over TLS 1.3: P5"),
    "datagram_kb": Figure(5.4, "KiB", MEASURED, "a session over DTLS: P5"),
    "process_mb": Figure(
        100, "MiB", MEASURED,
        "a server's process beside its sessions: with PostgreSQL, bridge, dashboard",
    ),
    "frame_bytes": Figure(
        195, "B", MEASURED,
        "a message beside its body on the wire, both ways, from IP on, with its acknowledgement: "
        "tests/proof/cluster.py",
    ),
    "ping_bytes": Figure(170, "B", MEASURED, "a keepalive and its answer; same run, idle"),
    "ping_ms": Figure(
        0.09, "ms of CPU", MEASURED, "`fleetnet sim`: 600 idle devices over DTLS, each 3 s and 60 s"
    ),
    # -- settings
    "sessions_per_s": Figure(200, "a process", SETTING, "`sessions_per_s`: let in after an outage"),
    "max_sessions": Figure(20_000, "a process", SETTING, "`max_sessions`"),
    "keepalive_s": Figure(60, "s", SETTING, "of silence until a device over TLS asks"),
    "dtls_keepalive_s": Figure(25, "s", SETTING, "and over DTLS"),
    # -- how much of a machine is used
    "cpu_share": Figure(0.5, "of a core", ASSUMED, "for readings; the rest is for storms"),
    "memory_share": Figure(0.6, "of the memory", ASSUMED, "for sessions and processes"),
    "session_share": Figure(
        0.75, "of max_sessions", ASSUMED,
        "in use: the others of a lost process find room, and no balancer is exact",
    ),
    "node_cores": Figure(2, "cores", ASSUMED, "of a machine, one process each"),
    "node_gb": Figure(8, "GiB", ASSUMED, "memory of a machine"),
    "spare_nodes": Figure(1, "machines", ASSUMED, "that may be down"),
    "back_within_s": Figure(300, "s", ASSUMED, "all are to be back after an outage"),
    # -- the database
    "postgres_us": Figure(
        30, "us of CPU", MEASURED,
        "of a process, for a message more than with SQLite: 39 us in commits of 200 messages",
    ),
    "row_us": Figure(
        9.1, "us of CPU", MEASURED,
        "PostgreSQL 15's for a reading: both tables, indexes, WAL; 5 a message, 200 messages a "
        "commit. 4.3 in commits of 2,048, 32 with one reading a message",
    ),
    "row_bytes": Figure(80, "B", MEASURED, "a reading in its table, with its index; same run"),
    "wal_bytes": Figure(250, "B", MEASURED, "of WAL for a reading, message included; same run"),
    "message_row_bytes": Figure(268, "B", MEASURED, "a message's row, with indexes; same run"),
    "kept_days": Figure(30, "days", ASSUMED, "readings are kept as such"),
    "message_days": Figure(7, "days", SETTING, "messages are kept as they came"),
    "database_share": Figure(0.4, "of its cores", ASSUMED, "for what comes in; the rest: queries"),
    "connections": Figure(10, "a process", MEASURED, "to PostgreSQL; same run, 8 to 11"),
    # -- the broker
    "bridge_us": Figure(
        4.1, "us of CPU", MEASURED, "a reading through the bridge, in batches: docs/mqtt.md"
    ),
    "broker_ms": Figure(
        0.023, "ms of CPU", MEASURED,
        "mosquitto 2.0.11's for a message of 400 B, QoS 1, in and out to one subscriber",
    ),
    # -- prices a month: round ones of a rented machine, in your currency
    "price_core": Figure(12, "a month", ASSUMED, "a core with 4 GiB"),
    "price_disk_gb": Figure(0.1, "a month", ASSUMED, "a GB of SSD"),
    "price_traffic_gb": Figure(0.05, "", ASSUMED, "a GB of traffic, in or out"),
    "price_balancer": Figure(20, "a month", ASSUMED, "a balancer, from two machines on"),
}  # fmt: skip


class Size(NamedTuple):
    """What ``devices`` need; counts are whole, rates are a second, money a month.

    Attributes:
        by_cpu, by_memory, by_sessions, by_storm: processes that this alone would take.
        processes: the most of these; bound: which it is. nodes: machines, the spare ones too.
        back_s: after an outage of the whole region, all are let in; storm_cores: that it takes.
        database_cores, database_gb: for what comes in, and for all that is kept.
    """

    devices: int
    messages_per_s: float
    readings_per_s: float
    steady_cores: float
    memory_gb: float
    by_cpu: int
    by_memory: int
    by_sessions: int
    by_storm: int
    processes: int
    bound: str
    nodes: int
    sessions_per_core: int
    sessions_per_gb: int
    handshakes_per_s: float
    back_s: float
    storm_cores: float
    database_cores: int
    database_gb: float
    wal_gb_a_day: float
    connections: int
    broker_cores: float
    traffic_gb: float
    cost_nodes: float
    cost_database: float
    cost_broker: float
    cost_traffic: float

    @property
    def cost(self) -> float:
        """All of it, a month."""
        return self.cost_nodes + self.cost_database + self.cost_broker + self.cost_traffic

    @property
    def cost_per_device(self) -> float:
        """A device's part, a month."""
        return self.cost / self.devices


def figures_with(changes: Mapping[str, float]) -> dict[str, float]:
    """Return name -> value of all figures, some of them changed.

    Raises:
        ConfigError: no figure is called so, or it would be no finite number above 0.
    """
    for name, value in changes.items():
        if name not in FIGURES:
            near = difflib.get_close_matches(name, FIGURES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"no figure is called {name!r}: {hint}`fleetnet plan size 1 --figures` lists them"
            )
        may_be_zero = name.startswith("price_") or name in ("spare_nodes", "datagrams")
        if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
            raise ConfigError(f"{name} cannot be {value:g}: give a number above 0")
        if name == "datagrams" and value > 1:
            raise ConfigError(f"datagrams is a share of all devices, 0 to 1, not {value:g}")
    return {name: float(changes.get(name, one.value)) for name, one in FIGURES.items()}


def size_of(devices: int, **changes: float) -> Size:
    """Return what so many devices need. Raises ConfigError: see ``figures_with``."""
    if devices < 1:
        raise ConfigError("a fleet has one device at least")
    f = figures_with(changes)
    messages = devices / f["message_every_s"]
    readings = messages * f["readings"]
    servers = _servers(devices, messages, readings, f)
    behind = _behind(messages, readings, f)
    costs = _costs(servers["nodes"], behind, f)
    behind["connections"] = math.ceil(servers["nodes"] * f["node_cores"] * f["connections"])
    return Size(
        devices=devices, messages_per_s=messages, readings_per_s=readings,
        **servers, **behind, **costs,
    )  # fmt: skip


def _servers(
    devices: int, messages: float, readings: float, f: Mapping[str, float]
) -> dict[str, Any]:
    """How many processes and machines, and what bounds them."""
    share = f["datagrams"]
    session_bytes = _KB * (share * f["datagram_kb"] + (1 - share) * f["stream_kb"])
    message_ms = f["message_ms"] + f["postgres_us"] / 1000 + _pings(f) * f["ping_ms"]
    cpu_s = messages * message_ms / 1000
    cpu_s += readings * f["reading_us"] / 1e6
    # Memory of a machine is its processes'.
    own_bytes = f["process_mb"] * _KB * _KB
    room = max(1.0, f["node_gb"] * _GB * f["memory_share"] / f["node_cores"] - own_bytes)
    needs = {
        "cpu": math.ceil(cpu_s / f["cpu_share"]),
        "memory": math.ceil(devices * session_bytes / room),
        "max_sessions": math.ceil(devices / (f["max_sessions"] * f["session_share"])),
        "outage": math.ceil(devices / (f["sessions_per_s"] * f["back_within_s"])),
    }
    bound = max(needs, key=lambda name: needs[name])
    processes = max(1, needs[bound])
    let_in = processes * f["sessions_per_s"]
    return {
        "steady_cores": cpu_s,
        "memory_gb": (devices * session_bytes + processes * own_bytes) / _GB,
        "by_cpu": needs["cpu"],
        "by_memory": needs["memory"],
        "by_sessions": needs["max_sessions"],
        "by_storm": needs["outage"],
        "processes": processes,
        "bound": bound,
        "nodes": math.ceil(processes / f["node_cores"]) + round(f["spare_nodes"]),
        "sessions_per_core": round(f["cpu_share"] * devices / cpu_s),
        "sessions_per_gb": int(_GB / session_bytes),
        "handshakes_per_s": let_in,
        "back_s": devices / let_in,
        "storm_cores": let_in * f["session_ms"] / 1000,
    }


def _behind(messages: float, readings: float, f: Mapping[str, float]) -> dict[str, Any]:
    """What the database, the broker and the network have to bear."""
    readings_kept = readings * f["row_bytes"] * f["kept_days"]
    messages_kept = messages * f["message_row_bytes"] * f["message_days"]
    cores = math.ceil(readings * f["row_us"] / 1e6 / f["database_share"])
    message_bytes = f["body_bytes"] + f["frame_bytes"] + f["ping_bytes"] * _pings(f)
    return {
        "database_cores": max(1, cores),
        "database_gb": (readings_kept + messages_kept) * _DAY_S / _GB,
        "wal_gb_a_day": readings * f["wal_bytes"] * _DAY_S / _GB,
        "broker_cores": messages * f["broker_ms"] / 1000 + readings * f["bridge_us"] / 1e6,
        "traffic_gb": messages * message_bytes * _MONTH_S / _GB,
    }


def _pings(f: Mapping[str, float]) -> float:
    """Keepalives between two messages of a device, in the mean of all."""
    stream, datagram = (
        max(0, math.ceil(f["message_every_s"] / f[name]) - 1)
        for name in ("keepalive_s", "dtls_keepalive_s")
    )
    return f["datagrams"] * datagram + (1 - f["datagrams"]) * stream


def _costs(nodes: int, behind: Mapping[str, Any], f: Mapping[str, float]) -> dict[str, Any]:
    """Money a month, by what it is for."""
    balancer = f["price_balancer"] if nodes > 1 else 0.0
    disk = behind["database_gb"] * f["price_disk_gb"]
    return {
        "cost_nodes": nodes * f["node_cores"] * f["price_core"] + balancer,
        "cost_database": behind["database_cores"] * f["price_core"] + disk,
        "cost_broker": math.ceil(behind["broker_cores"]) * f["price_core"],
        "cost_traffic": behind["traffic_gb"] * f["price_traffic_gb"],
    }


class Row(NamedTuple):
    """A line of the answer: what, how much, and by what it was reckoned."""

    what: str
    text: str
    how: str


def rows(size: Size) -> list[Row]:
    """Return the answer for people."""
    why = {
        "cpu": "readings", "memory": "memory", "max_sessions": "`max_sessions`",
        "outage": "the return after an outage",
    }  # fmt: skip
    return [
        Row("messages a second", f"{size.messages_per_s:,.0f}", "devices / message_every_s"),
        Row("readings a second", f"{size.readings_per_s:,.0f}", "* readings"),
        Row("cores for them", f"{size.steady_cores:.2f}", "message_ms, postgres_us, ping_ms"),
        Row("sessions a core", f"{size.sessions_per_core:,}", "cpu_share of it, by readings alone"),
        Row("sessions a GiB", f"{size.sessions_per_gb:,}", "stream_kb, datagram_kb"),
        Row("memory", f"{size.memory_gb:,.1f} GiB", "+ process_mb each"),
        Row("server processes", f"{size.processes:,}", f"bound by {why[size.bound]}"),
        Row(
            "by readings, memory, max_sessions, outage",
            f"{size.by_cpu}, {size.by_memory}, {size.by_sessions}, {size.by_storm}",
            "each alone",
        ),
        Row("machines", f"{size.nodes:,}", "node_cores processes each, + spare_nodes"),
        Row("let in after an outage", f"{size.handshakes_per_s:,.0f} a second", "sessions_per_s"),
        Row("all are back after", f"{size.back_s:,.0f} s", "at that rate, at the earliest"),
        Row("cores busy with it", f"{size.storm_cores:.1f}", "session_ms"),
        Row("database: cores", f"{size.database_cores:,}", "row_us / database_share"),
        Row("database: disk", f"{size.database_gb:,.0f} GiB", "row_bytes, kept_days"),
        Row("database: WAL a day", f"{size.wal_gb_a_day:,.1f} GiB", "wal_bytes"),
        Row("database: connections", f"{size.connections:,}", "connections a process"),
        Row("broker and bridge: cores", f"{size.broker_cores:.2f}", "broker_ms, bridge_us"),
        Row("traffic a month", f"{size.traffic_gb:,.0f} GiB", "body, frame and ping_bytes"),
        Row("cost: servers", f"{size.cost_nodes:,.0f}", "price_core, price_balancer"),
        Row("cost: database", f"{size.cost_database:,.0f}", "price_core, price_disk_gb"),
        Row("cost: broker", f"{size.cost_broker:,.0f}", "price_core"),
        Row("cost: traffic", f"{size.cost_traffic:,.0f}", "price_traffic_gb"),
        Row("cost of a device and month", f"{size.cost_per_device:.4f}", "all of these"),
    ]  # fmt: skip

