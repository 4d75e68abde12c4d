"""What came of a run, as one document; tables.py shows it to people."""

from typing import Any

from fleetnet_server.sim.simulation import Simulation
from fleetnet_server.sim.storm import judge

_PLAIN = (
    "devices", "online", "sent", "acknowledged", "dropped", "erased", "connects", "attempts",
    "frames", "reboots", "losses", "cuts", "moves", "errors",
)  # fmt: skip


def document(simulation: Simulation) -> dict[str, Any]:
    """Return the report as JSON can carry it; docs/simulator.md names every field."""
    order, plan, sums = simulation.order, simulation.order.plan, simulation.load.sums()
    seconds = simulation.seconds
    found: dict[str, Any] = {
        "done": sums["done"], "seed": plan.seed, "transport": plan.transport,
        "shapes": list(plan.shapes), "faults": list(plan.faults), "rate": plan.rate,
        "patient": plan.patient,
        "seconds": round(seconds, 1), "processes": simulation.load.processes,
    }  # fmt: skip
    found.update({key: sums[key] for key in _PLAIN})
    found["waiting"] = waiting_of(sums)
    devices = max(1, sums["devices"])
    found["readings_per_s"] = round(sums["acknowledged"] / seconds, 1) if seconds else None
    found["attempts_per_device"] = round(sums["attempts"] / devices, 2)
    found["connect_ms"] = sums["connect"].summary()
    found["latency_ms"] = sums["latency"].summary()
    comparison = simulation.comparison
    found["store"] = comparison._asdict() if comparison is not None else None
    found["storm"] = _storm(simulation, sums) if order.storm_at_s is not None else None
    found["server"] = _server(simulation, devices)
    found["steady"] = simulation.steady.document(simulation.server_idle, sums["rss_before"])
    # Starting Python is no device's cost.
    cpu_s = sums["cpu_s"] - sums["cpu_before"]
    memory = max(0, sums["rss"] - sums["rss_before"])
    found["simulator"] = {
        "cpu_s": round(cpu_s, 2),
        "cpu_ms_per_device_s": _per(1000 * cpu_s, devices * seconds),
        "rss_bytes": sums["rss"],
        "rss_bytes_per_device": round(memory / devices),
    }
    found["micropython"] = simulation.board_summary()
    found["complete"] = is_complete(found)
    return found


def waiting_of(sums: dict[str, Any]) -> int:
    """Return how many readings the devices still have: not acknowledged, and not given up."""
    return int(sums["sent"] - sums["acknowledged"] - sums["dropped"] - sums["erased"])


def is_complete(found: dict[str, Any]) -> bool:
    """Say whether everything that was sent arrived once, but for what a loss of power erased,
    and everybody whom a storm met came back."""
    store, boards = found["store"], found["micropython"]
    arrived = found["sent"] == found["acknowledged"] + found["erased"] and not found["dropped"]
    is_right = store is None or not (store["lost"] or store["twice"])
    if found["storm"] is not None:
        storm = found["storm"]
        is_right = is_right and storm["came"] and storm["back"] == storm["hit"]
    if boards is not None:
        agreed = boards["acknowledged"] if boards["stored"] is None else boards["stored"]
        is_right = is_right and boards["done"] == boards["devices"] and boards["sent"] == agreed
    return bool(found["done"] and arrived and is_right)


def _storm(simulation: Simulation, sums: dict[str, Any]) -> dict[str, Any]:
    hit, order = sums["hit"], simulation.order
    back = sums["back"].summary()
    away_s = simulation.storm.away_s or 0.0
    rate = order.settings.sessions_per_s if order.settings is not None else None
    came = judge(hit, back["max"] or 0.0, away_s, sums["back_at"], rate)
    return {
        "kind": order.storm,
        "came": simulation.storm.away_s is not None,
        "hit": hit,
        "back": back["count"],
        "back_ms": back,
        "attempts_per_device": _per(sums["storm_attempts"], hit),
        "handshakes_per_device": _per(sums["storm_attempts"] - sums["storm_unheard"], hit),
        "server_away_s": round(away_s, 2),
        "sessions_per_s": rate,
        "took_s": round(came.took_s, 2),
        "limit_s": None if came.limit_s is None else round(came.limit_s, 2),
        "within_limit": came.is_within if back["count"] == hit > 0 else False,
        "most_per_s": came.pace,
    }


def _server(simulation: Simulation, devices: int) -> dict[str, Any] | None:
    peak, idle = simulation.server_peak, simulation.server_idle
    if simulation.server is None or peak is None or idle is None:
        return None
    cpu_s = peak.cpu_s - idle.cpu_s
    return {
        "starts": simulation.server.starts,
        "cpu_s": round(cpu_s, 2),
        "cpu_percent": _per(100 * cpu_s, simulation.seconds),
        "cpu_ms_per_device_s": _per(1000 * cpu_s, devices * simulation.seconds),
        "rss_bytes": peak.rss_bytes,
        "rss_bytes_per_device": round(max(0, peak.rss_bytes - idle.rss_bytes) / devices),
    }


def _per(amount: float, count: float) -> float | None:
    return round(amount / count, 3) if count else None
