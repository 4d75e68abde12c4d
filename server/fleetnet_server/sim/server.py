"""A server of a fleet's folder: the one that runs already, or one of our own."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.served import find_server
from fleetnet_server.sim.usage import Usage, family_usage
from fleetnet_server.sim.wire import Address

_START_S = 30
_STOP_S = 30

# A server that does not take a connection within this time takes no fleet.
_MEET_S = 5.0

# Of its log, when it does not start: a traceback is as long.
_LAST_LINES = 20


async def find_address(folder: Path, settings: Settings) -> Address:
    """Return where the server is that uses FOLDER. Raises ConfigError: nobody listens there."""
    server = find_server(folder)
    if server is None:
        raise ConfigError(f"the server of {folder} has just ended: run it again")
    ports = {key: getattr(settings, key) for key in ("tls_port", "dtls_port")} | server.ports
    address = Address(settings.host, ports["tls_port"], ports["dtls_port"])
    who = f" ({server})" if str(server) else ""
    await meet(
        address, f"a server{who} uses {folder}, but ", "it is starting or ending: wait, or end it"
    )
    return address


async def meet(
    address: Address, before: str = "", remedy: str = "start the server, or correct --server"
) -> None:
    """Raise ConfigError unless somebody listens on the TLS port: devices would try for long."""
    try:
        async with asyncio.timeout(_MEET_S):
            _, writer = await asyncio.open_connection(address.host, address.tls_port)
    except OSError as error:  # TimeoutError is one
        code = error.errno or 0  # those of getaddrinfo are negative
        why = os.strerror(code) if code > 0 else error.strerror or str(error) or "no answer"
        raise ConfigError(
            f"{before}nobody answers on TCP port {address.tls_port} of {address.host} ({why}): "
            f"{remedy}"
        ) from None
    writer.close()


class OwnServer:
    """`fleetnet serve` for a folder, as a process on free ports of the loopback interface.

    It ends with this process, however that ends: see tied.py.

    Attributes:
        ready: what it said when it accepted devices: {"tls_port", "dtls_port"}; the same after
            a restart.
        starts: how often it was started.
        log: what it logs, of all its starts.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None):
        self._folder = folder
        self._environment = environment or {}
        self._process: asyncio.subprocess.Process | None = None
        self.log = folder / "sim" / "server.log"
        self._cpu_before = 0.0
        self.ready: dict[str, Any] = {"tls_port": 0, "dtls_port": 0}
        self.starts = 0

    async def start(self) -> None:
        """Start it and wait until it accepts devices. Raises ConfigError."""
        environment = {
            **os.environ,
            "FLEETNET_BIND": "127.0.0.1",
            "FLEETNET_TLS_PORT": str(self.ready["tls_port"]),
            "FLEETNET_DTLS_PORT": str(self.ready["dtls_port"]),
            **self._environment,
        }
        with self._open_log() as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fleetnet_server.cli.tied", "-C", str(self._folder),
                "serve", "--json", "--quiet", stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _START_S)
        except TimeoutError:
            line = b""
        except BaseException:
            await self.kill()
            raise
        if not line:
            await self.kill()
            last = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            raise ConfigError("\n".join(["the server did not start:", *last]))
        self.ready = json.loads(line)
        self.starts += 1

    def _open_log(self) -> BinaryIO:
        try:
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
            return self.log.open("ab" if self.starts else "wb")
        except OSError as error:
            raise ConfigError(f"{self.log} cannot be written: {error}") from error

    async def stop(self) -> None:
        """End it cleanly (SIGTERM); by force when that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._note_usage()
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        process = self._process
        if process is not None and process.returncode is None:
            self._note_usage()
            process.kill()
            await process.wait()

    def usage(self) -> Usage | None:
        """Return what it uses: CPU of all its starts, memory of this one."""
        process = self._process
        if process is None or process.returncode is not None:
            return None
        now = family_usage(process.pid)
        return None if now is None else Usage(self._cpu_before + now.cpu_s, now.rss_bytes)

    def _note_usage(self) -> None:
        now = self.usage()
        if now is not None:
            self._cpu_before = now.cpu_s
