"""A real PostgreSQL for tests: a server of its own, killed and started again where it was.

    def test_something(postgres: PostgresServer) -> None:      # one server for the session
        place = postgres.database()                            # a fresh, migrated database

It listens on a Unix socket alone, with passwords (SCRAM). Databases are copies of a migrated one;
``database()`` gives the place as the servers' role, which owns nothing.
"""

import contextlib
import ctypes
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fleetnet_server.store_place import PostgresPlace

PATIENCE_S = 30.0
OWNER, SERVER, READER, ADMIN = "fleetnet_owner", "fleetnet_server", "fleetnet_reader", "postgres"
TEMPLATE = "migrated"

# fsync: what a killed server has written is the kernel's, and no test cuts the power.
SETTINGS = """
listen_addresses = ''
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 200
autovacuum = off
log_min_messages = warning
logging_collector = off
password_encryption = scram-sha-256
lc_messages = 'C'
"""
_PR_SET_PDEATHSIG = 1


def find_programs() -> Path | None:
    """Return the folder with initdb and postgres, of the newest version that is installed."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda each: float(each.parent.name)
    )
    on_path = shutil.which("initdb")
    found = [*reversed(debian), *([Path(on_path).parent] if on_path else [])]
    return next((each for each in found if (each / "postgres").exists()), None)


def skip_without_postgres() -> Path:
    """Return the programs' folder; skip the test by name when there is none."""
    programs = find_programs()
    if programs is None:
        pytest.skip("postgresql is not installed")
    return programs


def _die_with_the_test() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


class PostgresServer:
    """One server with a data folder of its own; the user `postgres` runs it for root.

    Attributes:
        folder: with the data, the socket and the log. password: of every role.
    """

    def __init__(self, programs: Path):
        self.folder = Path(tempfile.mkdtemp(prefix="fleetnet-pg-", dir="/tmp"))
        self.password = secrets.token_urlsafe(12)
        self.password_file = self.folder / "password"
        self._programs = programs
        self._as: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._has_template = False
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._initialise()
        self.start()

    # -- the server ------------------------------------------------------------------------

    def _initialise(self) -> None:
        descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(self.password + "\n")
        for_initdb = self.folder / "initial"
        shutil.copy(self.password_file, for_initdb)
        if self._as:
            shutil.chown(for_initdb, "postgres")
        subprocess.run(
            [self._programs / "initdb", "-D", self.folder / "data", "-U", ADMIN, "-E", "UTF8",
             "--locale=C", "--auth=scram-sha-256", "--no-sync", f"--pwfile={for_initdb}"],
            check=True, capture_output=True, cwd=self.folder, env=_environment(), **self._as,
        )  # fmt: skip
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                env=_environment(), start_new_session=True, preexec_fn=_die_with_the_test,
                **self._as,
            )  # fmt: skip
        self._wait_until_it_answers()

    def kill(self) -> None:
        """End all of it at once, as a power cut of its machine does to its clients."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it shall start no other child meanwhile
        for process in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._process = None

    def stop(self) -> None:
        """Shut it down in good order: sessions are ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_S)
        self._process = None

    def restart(self) -> None:
        """Start it again after ``kill`` or ``stop``, or both first."""
        if self._process is not None:
            self.stop()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """No process of it runs meanwhile: connections stand, and nothing is answered."""
        family = self._family()
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """Return what it wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def _family(self) -> list[int]:
        """The postmaster and its children; each child is a session of its own."""
        assert self._process is not None
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self._conninfo("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, f"PostgreSQL ended: {self.log()[-2000:]}"
                assert time.monotonic() < until, f"PostgreSQL does not answer: {self.log()[-2000:]}"
                time.sleep(0.05)

    # -- databases -------------------------------------------------------------------------

    def database(self, user: str = SERVER, migrated: bool = True) -> PostgresPlace:
        """Make a fresh database and return its place for a role.

        Args:
            migrated: False: there is nothing in it, and it has the roles alone.
        """
        if not self._has_template:
            self._make_template()
        name = f"test_{next(self._numbers)}"
        template = f" TEMPLATE {TEMPLATE}" if migrated else ""
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name}{template}")
        self._give_roles(name)  # rights on a database are not copied
        return self.place(name, user)

    def place(self, database: str, user: str = SERVER) -> PostgresPlace:
        """Return the place of a database for a role: all have the same password."""
        return PostgresPlace(
            f"postgresql://{user}@/{database}?host={self.folder}", self.password_file
        )

    def drop(self, place: PostgresPlace) -> None:
        """Remove a database, whoever is connected to it."""
        with self.admin() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {place.database} WITH (FORCE)")

    def settings(self, place: PostgresPlace, folder: Path) -> str:
        """Write a fleet folder's postgres.password; return the line of its fleetnet.toml."""
        with open(
            os.open(folder / "postgres.password", os.O_WRONLY | os.O_CREAT, 0o600), "w"
        ) as file:
            file.write(self.password + "\n")
        return f'store = "{place.url}"\n'

    def admin(self, database: str = "postgres") -> Any:
        """Return a connection of the superuser's, in autocommit mode; a context manager."""
        return psycopg.connect(self._conninfo(database), autocommit=True)

    def _conninfo(self, database: str) -> str:
        return f"postgresql://{ADMIN}:{self.password}@/{database}?host={self.folder}"

    def _make_template(self) -> None:
        from fleetnet_server.store.postgres.migrations import migrate

        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        self._give_roles(TEMPLATE)
        self.set_passwords()
        migrate(self.place(TEMPLATE, OWNER))
        self._has_template = True

    def set_passwords(self) -> None:
        """Give the roles the one password again, where a test has given them others."""
        with self.admin() as connection:
            for role in (OWNER, SERVER, READER):
                connection.execute(f"ALTER ROLE {role} PASSWORD '{self.password}'")

    def _give_roles(self, database: str) -> None:
        from fleetnet_server.store.postgres import roles

        with self.admin(database) as connection:
            for statement in roles.creating(database):
                connection.execute(statement)


def _environment() -> dict[str, str]:
    """What libpq and initdb would take from the user's environment is not for them."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look every 10 ms until it is so; the test fails after PATIENCE_S."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.01)
