"""`fleetnet bench`: a short run with real sockets, and what its figures are taken for."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.bench.measure import LinkFigures
from fleetnet_server.bench.sizing import size_of
from fleetnet_server.bench.worker import make_body
from fleetnet_server.core.bodies import decode_readings, inspect_body
from server.cli.running import COMMAND, NOW, environment, fleetnet
from server.cli.test_json_members import members_of

FIGURES = LinkFigures(1000.0, 80_000.0, 40_000.0, 900_000.0, 9_000.0)


def test_a_short_run(tmp_path: Path) -> None:
    """2 s of load for each figure take about 8 s: two servers start, and 600 devices connect."""
    done = fleetnet("bench", "--seconds", "2", "--in", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert members_of("bench") == set(found)
    assert [one["link"] for one in found["links"]] == ["tls", "dtls"]
    for link in found["links"]:
        # No speeds: that something was measured, and what must hold on any machine.
        assert 0 < link["readings_per_core_s"] < link["batched_per_core_s"]
        assert link["handshakes_per_core_s"] > 0
        assert 1_000 < link["session_bytes"] < 1_000_000
        fleet = link["fleet"]
        limits = [fleet["by_cpu"], fleet["by_memory"], fleet["by_files"]]
        assert fleet["devices"] == min(one for one in limits if one is not None)
        assert fleet["bound"] in ("cpu", "memory", "files")
    assert found["links"][1]["fleet"]["by_files"] is None
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "bench", "--in", str(tmp_path)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*/fleet/serve.lock")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in errors and "Error: interrupted" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("memory", "files", "devices", "bound"),
    [
        (10**12, None, 20_000, "cpu"),
        (16 * 10**8, None, 10_000, "memory"),
        (10**12, 1024, 1024, "files"),
    ],
)
def test_the_scarcest_bounds_a_fleet(
    memory: int, files: int | None, devices: int, bound: str
) -> None:
    size = size_of(FIGURES, memory, files)
    assert (size.devices, size.bound) == (devices, bound)
    assert size.back_s == devices / 500


def test_figures_of_seconds_have_two_digits() -> None:
    assert size_of(FIGURES._replace(readings_per_core_s=57_312.0), 10**15, None).devices == 28_000
    assert size_of(FIGURES._replace(readings_per_core_s=15.0), 10**15, None).devices == 7


@pytest.mark.parametrize("readings", [1, 20])
def test_what_the_load_sends_is_stored(readings: int) -> None:
    body = make_body(readings, NOW)
    _t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
    assert problem is None and t1 is not None and t1 <= NOW
    assert len(decode_readings(kept).items) == readings
