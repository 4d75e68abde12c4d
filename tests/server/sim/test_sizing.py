"""The arithmetic of `fleetnet plan size`: each figure moves what it should; the page agrees."""

import json
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import main as cli
from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.sim.sizing import ASSUMED, FIGURES, MEASURED, SETTING, rows, size_of
from interpreters import ROOT


def test_it_is_arithmetic_that_one_can_follow() -> None:
    found = size_of(
        120_000, message_every_s=60, readings=10, message_ms=0.17, postgres_us=30, reading_us=1,
        datagrams=0, ping_ms=1, stream_kb=50, cpu_share=0.5, max_sessions=20_000,
        session_share=0.75, sessions_per_s=200, back_within_s=300, node_cores=2, spare_nodes=1,
    )  # fmt: skip
    assert found.messages_per_s == 2000 and found.readings_per_s == 20_000
    assert found.steady_cores == pytest.approx(0.4 + 0.02)
    assert (found.by_cpu, found.by_sessions, found.by_storm) == (1, 8, 2)
    assert found.processes == 8 and found.bound == "max_sessions"
    assert found.nodes == 5
    assert found.handshakes_per_s == 1600 and found.back_s == 75
    # Half of a core takes 0.5 / 0.42 of what all devices send.
    assert found.sessions_per_core == round(120_000 * 0.5 / 0.42)
    assert found.sessions_per_gb == 2**30 // (50 * 1024)


def test_the_database_and_the_money() -> None:
    found = size_of(
        100_000, message_every_s=100, readings=10, row_us=10, row_bytes=100, database_share=0.25,
        kept_days=30, message_row_bytes=200, message_days=7, price_core=10, price_disk_gb=0.1,
        price_traffic_gb=0.5, price_balancer=20, body_bytes=100, frame_bytes=100,
        datagrams=0.5, keepalive_s=60, dtls_keepalive_s=25, ping_bytes=200,
    )  # fmt: skip
    assert found.database_cores == 1  # 10,000 readings a second, 10 us each, a quarter of a core
    kept = (10_000 * 100 * 30 + 1000 * 200 * 7) * 86_400 / 2**30
    assert found.database_gb == pytest.approx(kept)
    # In 100 s three keepalives over DTLS, one over TLS: two in the mean.
    traffic = 1000 * (200 + 2 * 200) * 30 * 86_400 / 2**30
    assert found.cost_traffic == pytest.approx(0.5 * traffic)
    assert found.cost_database == pytest.approx(10 + 0.1 * kept)
    assert found.cost == pytest.approx(
        found.cost_nodes + found.cost_database + found.cost_broker + found.cost_traffic
    )
    assert found.cost_per_device == pytest.approx(found.cost / 100_000)


# What a larger figure does to the cost or the size: it never becomes less, but for these.
_EASES = {
    "message_every_s", "cpu_share", "memory_share", "node_cores", "node_gb", "back_within_s",
    "sessions_per_s", "max_sessions", "session_share", "database_share",
    "keepalive_s", "dtls_keepalive_s",
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_counts(name: str) -> None:
    """Doubled, it changes the answer; and to the side where it belongs."""
    value = FIGURES[name].value
    value = 90.0 if name == "message_every_s" else value
    doubled = min(1.0, 2 * value) if FIGURES[name].unit.startswith("of ") else 2 * value
    # So many that no count is the least that there is.
    usual = {"message_every_s": 90.0}
    before, after = size_of(3_000_000, **usual), size_of(3_000_000, **{**usual, name: doubled})
    assert before != after, name
    keys = ("processes", "nodes", "database_cores", "database_gb", "traffic_gb", "memory_gb")
    mores = [getattr(after, key) > getattr(before, key) * 1.0001 for key in keys]
    if name in _EASES:
        assert not any(more for key, more in zip(keys, mores, strict=True) if key != "memory_gb")
    elif not name.startswith("price_"):
        # A session over DTLS is smaller than one over TLS.
        held = keys if name != "datagrams" else keys[:-1]
        assert not any(getattr(after, key) < getattr(before, key) for key in held), name


def test_the_settings_are_those_of_the_server() -> None:
    for name in ("sessions_per_s", "max_sessions", "keepalive_s", "dtls_keepalive_s"):
        assert FIGURES[name].origin == SETTING
        assert FIGURES[name].value == Settings.model_fields[name].default
    assert {one.origin for one in FIGURES.values()} == {MEASURED, SETTING, ASSUMED}
    assert all(one.why for one in FIGURES.values())


@pytest.mark.parametrize("devices", [1, 10, 999, 10_000_000])
def test_any_fleet_has_an_answer(devices: int) -> None:
    found = size_of(devices)
    assert found.processes >= 1 and found.nodes >= 2
    assert all(math.isfinite(value) for value in found if not isinstance(value, str))
    assert len(rows(found)) > 15


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prize": 1.0}, "no figure is called 'prize'"),
        ({"readings": 0.0}, "readings cannot be 0"),
        ({"message_ms": float("nan")}, "message_ms cannot be nan"),
        ({"datagrams": 1.5}, "0 to 1"),
    ],
)
def test_what_cannot_be(changes: dict[str, float], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        size_of(100, **changes)
    with pytest.raises(ConfigError, match="one device"):
        size_of(0)


def test_the_command() -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["plan", "size", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    plain = json.loads(run("100000", "--json"))
    assert plain["processes"] == size_of(100_000).processes
    often = json.loads(run("100000", "--json", "--set", "message_every_s=1"))
    assert often["figures"]["message_every_s"] == 1
    assert often["messages_per_s"] == pytest.approx(60 * plain["messages_per_s"])
    assert "cost of a device and month" in run("100")
    assert "message_every_s" in run("100", "--figures")
    assert CliRunner().invoke(cli, ["plan", "size", "9", "--set", "readings"]).exit_code == 2


def test_the_page_is_what_the_arithmetic_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/scaling_page.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"run `python tools/scaling_page.py` {done.stderr}"
