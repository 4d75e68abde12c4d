"""What is shown while it runs has room on eighty columns."""

from types import SimpleNamespace as Some
from typing import Any

from rich.console import Console

from fleetnet_server.cli.demo import _table
from fleetnet_server.sim.histogram import Histogram
from fleetnet_server.sim.tables import live_table

DEVICE: dict[str, Any] = {
    "name": "cam-01", "transport": "dtls", "firmware": "MicroPython 1.25", "sent": 72_000,
    "acknowledged": 72_000, "stored": 72_000, "agrees": False,
    "report": {"state": "connecting", "error": "did not end in time"},
}  # fmt: skip


def shown(table: object) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def histogram(*times_ms: float) -> Histogram:
    found = Histogram()
    for time_ms in times_ms:
        found.add(time_ms)
    return found


def test_the_demo() -> None:
    run: Any = Some(ports="TLS 34567, DTLS 45678", devices=[Some(**DEVICE)] * 2, seconds=3600)
    for is_final in (False, True):
        lines = shown(_table(run, is_final, 3599))
        assert len(lines) == 1 + 3 + 2 + 1 + 2, lines  # title, head, devices, foot, errors
        assert "…" not in "".join(lines)
        assert lines[-1].strip() == "cam-01: did not end in time"


def test_the_simulator() -> None:
    sums = {
        "latency": histogram(12.3, 4567.8), "connect": histogram(123.4, 29_876.5),
        "sent": 1_234_567, "acknowledged": 1_234_000, "dropped": 0, "erased": 0, "online": 5000,
        "attempts": 12_345, "errors": ["Unreachable", "HandshakeTimeout", "Rejected"],
    }  # fmt: skip
    run: Any = Some(load=Some(sums=lambda: sums), order=Some(devices=5000))
    lines = shown(live_table(run, 1234))
    assert "…" not in "".join(lines), lines
    assert any("5000/5000" in line and "1234567" in line for line in lines)
    assert lines[-1].strip() == "last errors: Unreachable, HandshakeTimeout, Rejected"
