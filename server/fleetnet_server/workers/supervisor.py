"""`fleetnet serve --workers N`: starts the processes of one server, and starts dead ones again.

    supervisor ── store process    commits; HTTP API, bridge, housekeeping: what there is one of
        │    └─── worker 0 .. N-1  listeners and sessions, each with sockets of its own
        └ all sockets (sockets.py), the lock of the folder, the service manager

Nothing here handles a message, so nothing that a device sends can end it.
"""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import IO, Any

import structlog

from fleetnet_server import errors
from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.identity.permissions import check_folder
from fleetnet_server.notify import Manager
from fleetnet_server.served import take_lock, write_ports
from fleetnet_server.store.blobs import PARTIALS
from fleetnet_server.store.channel import SOCKET
from fleetnet_server.workers.control import Setup
from fleetnet_server.workers.process import STORE_DRAIN_S, WORKER_DRAIN_S
from fleetnet_server.workers.processes import Child
from fleetnet_server.workers.sockets import Sockets

_log = structlog.get_logger("fleetnet.workers")

# Between a process's end and its next start: almost at once the first time, then twice as long
# each time, up to half a minute, until one has lived for a minute.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 30.0
_LIVED_S = 60.0

# Signs of life come every second, from event loops that never wait for the disk.
_HANGS_S = 60.0
# Before it serves a large store may be brought to a newer layout first.
_BEGINS_S = 600.0
_LOOK_S = 5.0

# A reload reads some files and makes a context or two.
_RELOAD_S = 30.0

_STORE, _WORKER = (f"fleetnet_server.workers.{name}" for name in ("store_process", "worker"))


class Supervisor:
    """All processes of one server: ``start``, ``run`` until it is told to end, ``stop``.

    Attributes:
        ports: all that are open, by the setting's name.

    Raises:
        FolderError: another server uses the folder, or others can read its keys.
        ConfigError: a port cannot be had.
    """

    def __init__(self, folder: Path, settings: Settings, as_json: bool, quiet: bool):
        check_folder(folder)
        self._folder = folder
        self._lock: IO[bytes] = take_lock(folder)
        try:
            self._sockets = Sockets(settings, settings.workers)
        except ConfigError:
            self._lock.close()
            raise
        if settings.has_store_file:  # otherwise other machines may have their partial blobs there
            for left_over in (folder / "blobs").glob(f"{PARTIALS}-*"):
                shutil.rmtree(left_over, ignore_errors=True)
        key = os.urandom(32).hex()
        self._children = [
            self._child(worker, settings.workers, key, as_json, quiet)
            for worker in range(-1, settings.workers)
        ]
        self._store, self._workers = self._children[0], self._children[1:]
        self._manager = Manager()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ending = False

    def _child(self, worker: int, workers: int, key: str, as_json: bool, quiet: bool) -> Child:
        sockets = {} if worker < 0 else self._sockets.of(worker)
        numbers = {key: sock.fileno() for key, sock in sockets.items()}
        setup = Setup(
            str(self._folder.absolute()), worker, workers, numbers, self._sockets.ports, key,
            as_json, quiet,
        )  # fmt: skip
        # With the lock of the folder: it is held as long as any of them lives.
        kept = (self._lock.fileno(),)
        if worker < 0:
            return Child("store", _STORE, setup, kept, self._hear)
        return Child(f"worker-{worker}", _WORKER, setup, kept, self._hear)

    @property
    def ports(self) -> dict[str, int]:
        web = {"web_port": self._store.ports["web_port"]} if "web_port" in self._store.ports else {}
        return self._sockets.ports | web

    # -- their start -----------------------------------------------------------------------

    async def start(self) -> None:
        """Start all, the store process first.

        Raises:
            FleetError: as the first process that could not start said.
        """
        try:
            await self._begin(self._store)
            await asyncio.gather(*(self._begin(worker) for worker in self._workers))
        except BaseException:
            self._is_ending = True
            for child in self._children:
                child.send_signal(signal.SIGKILL)
            await asyncio.gather(*(child.wait() for child in self._children if child.starts))
            self._close()
            raise
        write_ports(self._lock, self.ports)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(child)) for child in self._children]
        self._tasks.append(loop.create_task(self._watch()))
        self._manager.ready(self._status())

    async def _begin(self, child: Child) -> None:
        await child.start()
        if await child.until_ready():
            return
        code = await child.wait()
        kind, text = child.failure or ("", "")
        error = getattr(errors, kind, ConfigError)
        raise error(text or f"{child.name} did not start (exit code {code}): see its log above")

    def _status(self) -> str:
        down = [child.name for child in self._children if not child.is_ready]
        ports = ", ".join(f"{key} {number}" for key, number in self.ports.items())
        return f"{len(self._workers)} workers on {ports}" + (f"; down: {down}" if down else "")

    # -- their life ------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        """Start a child again whenever it ends, with pauses that grow when it does not live."""
        pause_s = _FIRST_PAUSE_S
        while True:
            code = await child.wait()
            if self._is_ending:
                return
            lived_s = time.monotonic() - child.began
            if lived_s >= _LIVED_S:
                pause_s = _FIRST_PAUSE_S
            _log.critical(
                "process ended, and is started again", name=child.name, code=code,
                lived_s=round(lived_s, 1), pause_s=pause_s, why=(child.failure or ("", ""))[1],
            )  # fmt: skip
            self._manager.ready(self._status())
            pause_s = await self._restart(child, pause_s)
            if await child.until_ready():
                _log.warning("process serves again", name=child.name, pid=child.pid)
                self._manager.ready(self._status())
                self._note_restarts()

    async def _restart(self, child: Child, pause_s: float) -> float:
        """Start a child after a pause; return the next one."""
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                await child.start()
            except OSError as error:  # no memory, no more processes: often why it ended
                _log.critical(
                    "process cannot be started, tried again", name=child.name,
                    error=str(error), pause_s=pause_s,
                )  # fmt: skip
            else:
                return pause_s

    def _note_restarts(self) -> None:
        restarts = [worker.starts - 1 for worker in self._workers]
        self._store.say(do="note-restarts", restarts=restarts)
        write_ports(self._lock, self.ports)

    async def _watch(self) -> None:
        """End what hangs: with its stacks in the log, and then it is started again."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            # Where nothing ran here either (a container that was paused, a machine that was
            # frozen), nobody was silent.
            late_s = max(0.0, time.monotonic() - looked - _LOOK_S)
            looked = time.monotonic()
            for child in self._children:
                child.last_sign = min(looked, child.last_sign + late_s)
                silent_s = looked - child.last_sign
                if child.pid and silent_s > (_HANGS_S if child.is_ready else _BEGINS_S):
                    _log.critical("process hangs", name=child.name, silent_s=round(silent_s))
                    child.send_signal(signal.SIGABRT)

    def _hear(self, child: Child, said: dict[str, Any]) -> None:
        if said.get("event") == "reload-workers":
            for worker in self._workers:
                if worker.is_ready:
                    worker.send_signal(signal.SIGHUP)

    async def reload(self) -> None:
        """Have every process read settings, certificates and keys anew."""
        self._manager.reloading()
        asked = [child for child in self._children if child.is_ready]
        for child in asked:
            child.reloaded = None
            child.send_signal(signal.SIGHUP)
        is_done = False
        try:
            async with asyncio.timeout(_RELOAD_S):
                is_done = all(await asyncio.gather(*(each.until_reloaded() for each in asked)))
        except TimeoutError:
            _log.error("settings not reloaded by every process in time")
        failed = "" if is_done else "; the last reload was not complete: see log"
        self._manager.ready(self._status() + failed)

    # -- their end -------------------------------------------------------------------------

    async def stop(self) -> None:
        """End all: the workers with their devices first, then the store process."""
        self._is_ending = True
        self._manager.stopping()
        # Who comes now is refused at once where no worker listens any more.
        self._sockets.close()
        self._store.say(do="drain")
        await self._end(self._workers, WORKER_DRAIN_S)
        await self._end([self._store], STORE_DRAIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close()
        _log.info("stopped")

    async def _end(self, children: list[Child], patience_s: float) -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(child.wait()) for child in children if child.pid]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=patience_s)
        if late:
            for child in children:
                child.send_signal(signal.SIGKILL)
            await asyncio.wait(late)

    def _close(self) -> None:
        self._sockets.close()
        (self._folder / SOCKET).unlink(missing_ok=True)
        self._lock.close()
