"""docs/postgres.md, from its first command to its last, against a real PostgreSQL.

The blocks run in order in one folder, as somebody would type them. `sudo -u postgres` is the
superuser's connection, `localhost` the server's socket; nothing else is another than on the page.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.pages import ROOT, blocks
from end_to_end.fleet import free_port

if TYPE_CHECKING:
    from server.store.postgres_server import PostgresServer

PAGE = ROOT / "docs" / "postgres.md"
PATIENCE_S = 120


@pytest.fixture
def environment(tmp_path: Path, postgres: "PostgresServer") -> Iterator[dict[str, str]]:
    """What a shell needs: the commands, the server's address, the superuser's password."""
    from server.store.postgres_server import find_programs

    programs = find_programs()
    assert programs is not None
    (tmp_path / "bin").mkdir()
    pgpass = tmp_path / "superuser"
    pgpass.touch(0o600)
    pgpass.write_text(f"*:*:*:postgres:{postgres.password}\n")
    fleetnet = f'exec {shlex.quote(sys.executable)} -m fleetnet_server.cli.main "$@"'
    _write_program(tmp_path / "bin" / "fleetnet", fleetnet)
    # sudo -u postgres PROGRAM ...
    superuser = f'shift 2; PGUSER=postgres PGPASSFILE={pgpass} exec "$@"'
    _write_program(tmp_path / "bin" / "sudo", superuser)
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith(("FLEETNET_", "PG"))}  # fmt: skip
    yield kept | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{programs}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PGHOST": str(postgres.folder),
        "HOME": str(tmp_path),
        "FLEETNET_BIND": "127.0.0.1",
        "FLEETNET_TLS_PORT": str(free_port()),
        "FLEETNET_DTLS_PORT": str(free_port()),
    }
    postgres.set_passwords()  # the page gives the roles its own; other tests have this server, too


def _write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def as_run_here(text: str, folder: Path) -> str:
    for old, new in (
        ("@localhost/", f"@{str(folder).replace('/', '%2F')}/"),
        ("-h localhost", f"-h {folder}"),
    ):
        text = text.replace(old, new)
    return text


def test_every_command_of_the_page_runs(
    tmp_path: Path, environment: dict[str, str], postgres: "PostgresServer"
) -> None:
    with postgres.admin() as connection:
        for name in ("fleet", "restored"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    superuser = tmp_path / "fleet" / "postgres.postgres.password"
    ran = ""
    for number, text in blocks(PAGE):
        if "--user postgres" in text:
            superuser.touch(0o600)
            superuser.write_text(postgres.password)
        if "store copy fleet.db" in text:
            _empty(postgres)
        script = as_run_here(text, postgres.folder)
        if text.endswith(" serve"):
            _serve(script, tmp_path, environment)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{PAGE.name}:{number}\n{done.stdout}{done.stderr}"
        ran += done.stdout
    assert "layout 1" in ran and "THE SAME" not in ran and "devices\t" in ran


def _empty(postgres: "PostgresServer") -> None:
    """The page's next fleet is another one: its database has nothing yet."""
    with postgres.admin("fleet") as connection:
        connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
        connection.execute("TRUNCATE devices, epochs, messages, audit CASCADE")
        connection.execute("ALTER TABLE audit ENABLE TRIGGER ALL")
        connection.execute("DELETE FROM nodes")


def _serve(script: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the lines before `serve`, and the server until it says that it is ready."""
    before, _, serve = script.strip().rpartition("\n")
    subprocess.run(["bash", "-euc", before], cwd=folder, env=environment, check=True, timeout=60,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    server = subprocess.Popen(
        ["bash", "-c", f"exec {serve} --quiet"], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    said = server.stdout.readline()
    server.terminate()
    _out, errors = server.communicate(timeout=PATIENCE_S)
    assert b"ready" in said and server.returncode == 0, errors.decode()
