"""The commands that read a store say the same of PostgreSQL as of SQLite."""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleetnet_server.cli.main import main
from fleetnet_server.config import load_settings
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.outbox import open_outbox
from server.cli.running import COMMAND, NOW, environment
from server.cli.test_conventions import complete
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.reading_world import World, fill

SINCE = "2027-01-15T08:00:00Z"  # NOW
UNTIL = "2027-01-15T14:00:00Z"


@pytest.fixture(scope="module")
def fleets(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, World]]:
    """Two fleets with the same messages: the settings alone say where the store is."""
    made = {}
    for kind in ("sqlite", "postgres"):
        folder = tmp_path_factory.mktemp(kind) / "fleet"
        create_fleet(folder, ("localhost",))
        if kind == "postgres":
            line = postgres.settings(postgres.database(), folder)
            text = (folder / "fleetnet.toml").read_text()
            (folder / "fleetnet.toml").write_text(line + text)
        made[kind] = World(load_settings(folder).store_place(folder), folder)
        fill(made[kind])
    yield made
    for world in made.values():
        world.close()


def run(folder: Path, *arguments: str) -> Any:
    """Run a command in this process; return its exit code and what it says."""
    done = CliRunner().invoke(main, ["-C", str(folder), *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "--json"),
        ("query", "--device", "cam-*", "--channel", "t", "--limit", "12"),
        ("query", "--since", SINCE, "--until", UNTIL, "--json"),
        ("query", "--device", "nobody"),
        ("query", "--every", "6h", "--device", "cam-2", "--channel", "kept", "--json"),
        ("export", "-", "--format", "csv"),
        ("logs", "--json"),
        ("logs", "cam-2", "--limit", "2"),
        ("plot", "cam-1", "t", "--json"),
        ("plot", "cam-1", "nothing"),
        ("blob", "list", "--json"),
        ("blob", "get", "1", "-"),
    ],
    ids=" ".join,
)
def test_same_output(fleets: dict[str, World], arguments: tuple[str, ...]) -> None:
    expected = run(fleets["sqlite"].folder, *arguments)
    assert run(fleets["postgres"].folder, *arguments) == expected
    assert expected[0] or len(expected[1]) > 30 or arguments[0] == "blob"


def test_counts(fleets: dict[str, World]) -> None:
    code, text, said = run(fleets["postgres"].folder, "store", "show", "--json")
    assert code == 0, said
    found = json.loads(text)
    whole = json.loads(run(fleets["sqlite"].folder, "store", "show", "--json")[1])
    same = ("devices", "messages", "held", "minutes", "hours", "blobs", "blob_bytes")
    if whole["held"] == 0:  # SQLite counts what compaction left
        same = tuple(name for name in same if name != "held")
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    dated = run(fleets["postgres"].folder, "query", "--since", "1970-01-01", "--json")[1]
    assert found["chunk_readings"] >= len(dated.splitlines()) > 100
    assert found["file_bytes"] > 1 << 20 and found["held"] == 2
    code, text, _said = run(fleets["postgres"].folder, "store", "show")
    assert code == 0 and "database" in text and "write-ahead" not in text
    assert fleets["postgres"].place.password_file.read_text().strip() not in text  # type: ignore[union-attr]


def test_the_place_of_a_bridge(fleets: dict[str, World]) -> None:
    store = fleets["postgres"].store
    outbox = open_outbox(store, "home")
    outbox.start(1000)
    outbox.close()
    (row,) = json.loads(run(fleets["postgres"].folder, "mqtt", "show", "--json")[1])
    assert (row["name"], row["behind"]) == ("home", 0)
    assert run(fleets["postgres"].folder, "mqtt", "forget", "home")[0] == 0


def test_names_are_completed(fleets: dict[str, World]) -> None:
    for world in fleets.values():
        assert complete(world.folder, "plot", "cam") == ["cam-1", "cam-2"]
        assert complete(world.folder, "query", "--device", "cam-2", "--channel", "k") == ["kept"]


def test_tail_prints_what_comes(fleets: dict[str, World]) -> None:
    world = fleets["postgres"]
    process = subprocess.Popen(
        [*COMMAND, "-C", str(world.folder), "tail", "--json", "--channel", "new"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    try:
        lines, seq, deadline = b"", 1000, time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            # It says nothing when it begins: one message after another, until one is shown.
            while not selector.select(0.2):
                seq += 1
                world.put(1, seq, f'[{NOW},0,["new"],[[0,0,{seq}]]]')
                assert process.poll() is None and time.monotonic() < deadline
            lines = os.read(process.stdout.fileno(), 65536)
        first = json.loads(lines.splitlines()[0])
        assert (first["device"], first["channel"], first["unix_ms"]) == ("cam-1", "new", NOW)
        assert 1000 < first["value"] <= seq
    finally:
        process.kill()
        process.communicate()
