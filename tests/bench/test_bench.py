"""What the bench computes, without its loads; its figures themselves are asserted nowhere."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import BEGIN, END, ORDER, Row, Table, write_markdown
from bench.idle_costs import KEEPALIVE_MS, Cost, Standing, costs, skew_ms
from bench.wire_count import Count, DatagramCount, StreamCount
from fleetnet_server.sim.interpreters import micropythons

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row("P1", "", 150, "", 150), True),
        (Row("P1", "", 149, "", 150), False),
        (Row("P5", "", 41, "", 40, at_most=True), False),
        (Row("P1", "", 150, "", 150, peer=80, ratio_target=2.0), False),
        (Row("P10", "", 20, "", at_most=True, peer=40, ratio_target=0.5), True),
        (Row("P10", "", 21, "", at_most=True, peer=40, ratio_target=0.5), False),
        (Row("P1", "", 1, ""), None),
        (Row("P4", "", 1, "", ratio_target=1.5), None),
    ],
)
def test_a_target_is_reached_or_not(row: Row, reached: bool | None) -> None:
    assert row.reached is reached


def test_the_table_is_in_the_order_of_the_targets(tmp_path: Path) -> None:
    table = Table()
    for name in reversed(ORDER):
        table.add(Row(name, "what", 1234.5, "units", peer=1000, peer_name="other"))
    table.note("said once")
    table.note("said once")
    lines = table.text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2 : 2 + len(ORDER)]] == list(ORDER)
    assert lines[2] == "| P1 | what | 1,234 units |  |  | 1,000 other | 1.23 |"
    assert lines[-1] == "- said once" and lines.count("- said once") == 1
    table.write_json(tmp_path / "out.json", {"machine": {}})
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(ORDER)


def test_a_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_markdown(page, "new")
    assert page.read_text() == "new\n"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write_markdown(page, "table")
    assert page.read_text() == f"above\n{BEGIN}\ntable\n{END}\nbelow\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        write_markdown(page, "table")
    assert page.read_text() == "no marks"


def test_the_page_of_the_benchmarks_has_the_marks_once() -> None:
    page = PAGE.read_text()
    assert (page.count(BEGIN), page.count(END)) == (1, 1)


def test_an_idle_session_costs_what_it_adds() -> None:
    few = Standing(10, 3_000_000, 1.0, 1 << 20, 0)
    full = Standing(110, 23_000_000, 2.0, (1 << 20) + 100 * 4096, 7)
    assert costs([few, full]) == [Cost(110, 85.0, 4.0)]
    assert full.share == pytest.approx(1.15)


def test_keepalives_are_spread_over_the_minute() -> None:
    parts = [0] * 10
    for index in range(1000):
        parts[skew_ms(index) * 10 // KEEPALIVE_MS] += 1
    assert min(parts) >= 98 and max(parts) <= 102


async def test_datagrams_are_counted_with_their_headers() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    device = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    with server, device:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        device.setblocking(False)
        proxy = DatagramCount(server.getsockname()[1], 0.001)
        device.connect(("127.0.0.1", await proxy.start()))
        try:
            for size in (10, 30):
                await loop.sock_sendall(device, bytes(size))
                _, back = await asyncio.wait_for(loop.sock_recvfrom(server, 100), 20)
            for size in (5, 6):
                server.sendto(bytes(size), back)
                await asyncio.wait_for(loop.sock_recv(device, 100), 20)
            count = proxy.count()
        finally:
            await proxy.close()
    assert (count, count.wire) == (Count(51, 4, 1, 28), 51 + 4 * 28)


async def test_segments_of_a_stream_are_counted_by_the_kernel() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = StreamCount(server.sockets[0].getsockname()[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    try:
        writer.write(bytes(7))
        await asyncio.wait_for(reader.readexactly(7), 20)
        first = proxy.count()
        for _ in range(3):
            writer.write(bytes(50))
            await asyncio.wait_for(reader.readexactly(50), 20)
        count = proxy.count().since(first)
    finally:
        writer.close()
        await proxy.close()
        server.close()
        await server.wait_closed()
    assert (first.payload, first.turns, count.payload, count.turns) == (14, 1, 300, 3)
    # Three there, three back, and acknowledgements that stood alone.
    assert 6 <= count.packets <= 12
    assert count.wire == 300 + 52 * count.packets


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


PARSE = """
import runpy, shlex, sys
sys.path.insert(0, sys.argv[1])
bench = runpy.run_path(sys.argv[1] + "/__main__.py", run_name="bench")
for arguments in sys.argv[2:]:
    rows = bench["parser"]().parse_args(shlex.split(arguments)).rows
    assert not set(rows.split(",")) - set(bench["measures"]()), rows
print(rows)
"""


def test_the_page_shows_commands_that_are_there() -> None:
    shown = re.findall(r'make bench ARGS="([^"]*)"', PAGE.read_text())
    assert len(shown) >= 4
    done = run("-c", PARSE, str(HERE), *shown, "")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "bounds,P1,P2,P3,P4,P5,P6,P7,P8,P10,P11,P12,P13,MQTT,POSTGRES"
    )  # fmt: skip


def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    """P10, which no other test runs: two programs of real MicroPython, a broker, a server."""
    if not micropythons():
        pytest.skip("no MicroPython here: see tools/get_micropython.sh")
    table, seen = tmp_path / "table.md", tmp_path / "seen.json"
    done = run(str(HERE), "--quick", "--rows", "P10", "--json", str(seen), "--markdown", str(table))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(seen.read_text())
    assert list(found["seconds"]) == ["P10"] and {row["name"] for row in found["rows"]} == {"P10"}
    for link in ("tls", "dtls"):
        cost = found["details"][f"P10 {link}"]
        assert cost["records"] < cost["wire"] and cost["batch_trips"] >= 1
    assert "| P10 | TLS, 20 a batch" in table.read_text()


def test_a_small_history_is_filled_and_asked(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    done = run(str(HERE / "history.py"), "20000", "--devices", "10", "--seconds", "0.2",
               "--json", str(seen))  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(seen.read_text())
    assert figures["stored_readings"] >= 20_000
    assert 0 < figures["alone_query_p50_ms"] and 0 < figures["plain_query_p50_ms"]
