"""The store as a worker of `fleetnet serve --workers` has it.

It reads the store itself, and changes the registry and the commands itself, as every program may.
Messages, and what belongs to them, go to the store process, which commits for all workers and
knows which of them has which device (serving.py).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import Committed, SessionAbout, SessionStart
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import channel
from fleetnet_server.store.fleet_store import Deferred, FleetStore
from fleetnet_server.store.remote_line import StoreLine
from fleetnet_server.store.sqlite import SqliteStore

# A commit of a good disk takes 10 ms. One that takes longer than this is said to be late, as
# /readyz and the log have it; it is waited for all the same.
_LATE_S = 3.0

# Between two attempts to reach a store process that is being started.
_AGAIN_S = 0.05


class RemoteMessages(FleetStore):
    """Sessions and commits of one worker; its Writer calls ``commit`` on its own thread.

    Half of a class: the other half is the store that is read and changed here.
    """

    on_lost: Callable[[int], None] | None = None

    def use_line(self, folder: Path, line: StoreLine, worker: int) -> None:
        """Begin.

        Args:
            folder: of the fleet, in which the store process listens.
            line: to the store process. worker: number of this worker, from 0.
        """
        self._folder = folder
        self._worker = worker
        self._line = line
        self._fences: dict[int, tuple[int, int]] = {}  # device -> (fence, epoch)
        self._holders: dict[int, int] = {}  # epoch -> device
        self._sock: socket.socket | None = None
        self._frames = channel.Frames()
        self._number = 0
        self._asked: Sequence[Message] | None = None
        self._sent = Deferred((), (), {})
        line.leases = self.leases
        line.on_lost = self._has_lost

    def leases(self) -> dict[int, int]:
        """Return device -> fence, of the devices that are here."""
        return {device: fence for device, (fence, _epoch) in self._fences.items() if fence}

    # -- sessions --------------------------------------------------------------------------

    async def begin(self, device_id: int, epoch: bytes, about: SessionAbout) -> SessionStart:
        """See MessageStore. Raises StoreUnavailable: the store process does not answer."""
        begun = await self._line.begin(device_id, epoch, about)
        if begun.fence:
            before = self._fences.get(device_id)
            if before is not None:
                self._holders.pop(before[1], None)
            self._fences[device_id] = (begun.fence, begun.epoch_id)
            self._holders[begun.epoch_id] = device_id
        return SessionStart(begun.epoch_id, begun.marks)

    def end(self, device_id: int) -> None:
        """See MessageStore."""
        lease = self._fences.pop(device_id, None)
        if lease is not None:
            self._holders.pop(lease[1], None)
            self._line.send(channel.End(device_id, lease[0]))

    def _has_lost(self, device_id: int, fence: int) -> None:
        """Another worker has a device now; an older word than the last lease is none."""
        lease = self._fences.get(device_id)
        if lease is not None and lease[0] <= fence and self.on_lost is not None:
            self.on_lost(device_id)

    # -- the commit ------------------------------------------------------------------------

    def commit(self, batch: Sequence[Message]) -> Committed:
        """Have a batch stored; it is on the disk when this returns. See SqliteStore.commit.

        Raises:
            StoreUnavailable: the store process is away, or late. The batch may have been stored:
                commit it again, and what is stored already is no message twice.
        """
        waited = self._waiting()
        try:
            if self._asked is not batch or self._sock is None:
                self._asked = None
                self._number += 1
                self._ask(self._commit_of(batch, waited))
                self._asked = batch
                self._sent = waited
            done = self._answer()
        except OSError as error:
            self._hang_up()
            raise StoreUnavailable(f"the store process is away ({error})") from error
        self._asked = None
        self._settle(self._sent)
        new = range(len(batch)) if done.new is None else done.new
        return Committed(new, frozenset(done.lost))

    def _commit_of(self, batch: Sequence[Message], waited: Deferred) -> channel.Commit:
        carriers, holders = {}, {}
        devices = set()
        for index, message in enumerate(batch):
            device = message.device_id
            if type(message) is Relayed:
                carriers[index] = message.carrier
                device = holders[index] = self._holders.get(message.carrier[0], device)
            devices.add(device)
        leases = {device: self._fences.get(device, (0, 0))[0] for device in devices}
        return channel.Commit(
            self._worker, self._number, list(batch), carriers, leases, holders,
            [gap[:5] for gap in waited.gaps],
            [(*boot, offset) for boot, offset in waited.offsets.items()], list(waited.audit),
        )  # fmt: skip

    def _ask(self, frame: channel.Commit) -> None:
        if self._sock is None:
            self._frames = channel.Frames()
            self._sock = self._connect()
        self._sock.sendall(channel.encode(frame))

    def _connect(self) -> socket.socket:
        """Wait for a store process that is being started. Raises OSError: it does not come."""
        until = time.monotonic() + _LATE_S
        while True:
            try:
                return channel.connect(self._folder, _LATE_S)
            except OSError:
                if time.monotonic() > until:
                    raise
            time.sleep(_AGAIN_S)

    def _answer(self) -> channel.Done:
        """Wait for the answer to the last batch. Raises OSError; StoreUnavailable: it is late."""
        assert self._sock is not None
        while True:
            try:
                data = self._sock.recv(1 << 16)
            except TimeoutError:
                raise StoreUnavailable(f"no commit within {_LATE_S:g} s") from None
            if not data:
                raise OSError("it has ended, and is started again")
            for frame in self._frames.feed(data):
                if isinstance(frame, channel.Done) and frame.number == self._number:
                    return frame

    def _hang_up(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


class RemoteStore(RemoteMessages, SqliteStore):  # type: ignore[misc]
    """A store file, and the store process that commits to it.

    Args:
        path: the file. Others: see RemoteMessages.use_line.

    Raises:
        StoreError, StoreUnavailable: as SqliteStore.
    """

    def __init__(self, path: Path, folder: Path, line: StoreLine, worker: int):
        super().__init__(path)
        self.use_line(folder, line, worker)

    def close(self) -> None:
        """Write what is deferred, and close. Raises StoreUnavailable when it cannot."""
        try:
            super().close()
        finally:
            self._hang_up()


def start_line(folder: Path, worker: int) -> StoreLine:
    """Return a line to the store process that keeps itself connected, on the running loop."""
    line = StoreLine(folder, worker)
    line.task = asyncio.get_running_loop().create_task(line.run())
    return line
