"""The simulator for people: what goes on, and the report (report.py) as tables."""

from typing import Any

from rich.console import Group
from rich.table import Table

from fleetnet_server.sim.simulation import Simulation

_SHARES = ("count", "p50", "p95", "p99", "max")


def live_table(simulation: Simulation, elapsed_s: float) -> Table:
    """What is going on now."""
    sums = simulation.load.sums()
    latency, connect = sums["latency"].summary(), sums["connect"].summary()
    table = Table(title=f"fleetnet sim, {elapsed_s:.0f} s")
    # Eighty columns hold the numbers; errors, which take more, stand below them.
    for heading in ("online", "sent", "acked", "under way", "tries"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("connect", "ack"):
        table.add_column(f"{heading} ms\np50/p99", justify="right", no_wrap=True)
    under_way = sums["sent"] - sums["acknowledged"] - sums["dropped"] - sums["erased"]
    table.add_row(
        f"{sums['online']}/{simulation.order.devices}", str(sums["sent"]),
        str(sums["acknowledged"]), str(under_way), str(sums["attempts"]),
        _two(connect), _two(latency),
    )  # fmt: skip
    if sums["errors"]:
        table.caption = f"last errors: {', '.join(sums['errors'])}"
    return table


def final_tables(found: dict[str, Any]) -> Group:
    """The report as tables."""
    return Group(*filter(None, (_times(found), _cost(found), _storm(found), _counts(found))))


def _times(found: dict[str, Any]) -> Table:
    table = _table("times in ms", "", *_SHARES)
    rows = [("connect", found["connect_ms"]), ("ack latency", found["latency_ms"])]
    if found["storm"] is not None:
        rows.append(("storm to session", found["storm"]["back_ms"]))
    for name, summary in rows:
        table.add_row(name, *(_number(summary[key]) for key in _SHARES))
    return table


def _cost(found: dict[str, Any]) -> Table:
    """CPU and memory: while all are connected where that was seen, and over the whole run."""
    table = _table("cost", "", "CPU", "ms/device/s", "memory", "KB/device")
    steady = found["steady"]
    for name in ("server", "simulator"):
        if steady is not None and steady[name] is not None:
            used = steady[name]
            cpu = f"{used['cpu_percent']:g} %"
            table.add_row(f"{name}, steady", cpu, *_per_device(used))
        if found[name] is not None:
            used = found[name]
            table.add_row(f"{name}, all the run", f"{used['cpu_s']:g} s", *_per_device(used))
    return table


def _per_device(used: dict[str, Any]) -> tuple[str, str, str]:
    return (
        _number(used["cpu_ms_per_device_s"]),
        f"{used['rss_bytes'] / 1e6:.1f} MB",
        f"{used['rss_bytes_per_device'] / 1000:.1f}",
    )


def _storm(found: dict[str, Any]) -> Table | None:
    storm = found["storm"]
    if storm is None:
        return None
    table = _table(f"storm: {storm['kind']}")
    table.add_column(justify="right")
    if not storm["came"]:
        table.add_row("did not come: the run was over", "-")
    table.add_row("hit, back", f"{storm['hit']}, {storm['back']}")
    table.add_row("attempts a device", _number(storm["attempts_per_device"]))
    table.add_row("  that found a server", _number(storm["handshakes_per_device"]))
    table.add_row("server away", f"{storm['server_away_s']:g} s")
    table.add_row("all back, from the server's return", f"{storm['took_s']:g} s")
    if storm["limit_s"] is not None:
        said = "kept" if storm["within_limit"] else "NOT KEPT"
        limit = f"{storm['limit_s']:g} s: {said}"
        table.add_row(f"  at {storm['sessions_per_s']:g} a second + 10 %", limit)
    table.add_row("most a second, over 5 s", _number(storm["most_per_s"]))
    return table


def _counts(found: dict[str, Any]) -> Table:
    table = _table("complete" if found["complete"] else "NOT COMPLETE")
    table.add_column(justify="right")
    for name, value in _count_rows(found):
        table.add_row(name, "-" if value is None else str(value))
    return table


def _count_rows(found: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("devices", found["devices"]),
        ("readings sent", found["sent"]),
        ("  acknowledged", found["acknowledged"]),
        ("  dropped by full devices", found["dropped"]),
        ("  erased by loss of power", found["erased"]),
        ("  still with the devices", found["waiting"]),
        ("readings a second", found["readings_per_s"]),
        ("attempts a device", found["attempts_per_device"]),
    ]
    if found["frames"]:
        rows.append(("frames stored", found["frames"]))
    rows += [(key, found[key]) for key in ("reboots", "losses", "cuts", "moves") if found[key]]
    store = found["store"]
    if store is None:
        rows.append(("store", "elsewhere: not compared"))
    else:
        rows += [(f"store: {key}", store[key]) for key in ("stored", "lost", "twice")]
    boards = found["micropython"]
    if boards is not None:
        said = ", ".join(_number(boards[key]) for key in ("sent", "acknowledged", "stored"))
        rows.append(("MicroPython: sent, acknowledged, stored", said))
    if found["errors"]:
        rows.append(("last errors", ", ".join(found["errors"])))
    return rows


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=bool(headings))
    for heading in headings or ("",):
        table.add_column(heading, justify="right" if heading else "left")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.10g}"


def _two(summary: dict[str, Any]) -> str:
    if not summary["count"]:
        return "-"
    return "/".join(f"{summary[key]:.3g}" if summary[key] < 100 else f"{summary[key]:.0f}"
                    for key in ("p50", "p99"))  # fmt: skip
