"""Which devices are at this node, and since when: leases with fences.

A lease is a row of ``leases``; taking it makes its fence larger. A commit looks at the fences of
its messages in its own transaction, with the rows locked FOR SHARE. So who takes a lease waits for
the commits under way, and what it reads then is all that the node before will ever have stored.

Sessions begin on a thread of its own here, those that wait together in one transaction: after an
outage a whole region comes at once. It waits for the disk only where an epoch gets its number: that
may be no other device's after a crash of the database's server, as messages are stored by it. A
fence may be lost with the server; who holds a larger one than the table has is told by ``lost``.

A lease that is locked, by a node that died over its commit, is waited for outside of transactions:
the others go on meanwhile.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet.errors import FleetError
from fleetnet_server.core.ports import SessionAbout
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.expanding import as_text
from fleetnet_server.store.postgres.lease_rows import (
    BOOTS_OF,
    GIVE_BACK,
    MARKS,
    NOT_GIVEN,
    NUMBER,
    NUMBERS,
    TAKE,
    WHO,
    Begun,
    as_begun,
    find_held,
)
from fleetnet_server.store.postgres.watermarks import columns
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

_log = logging.getLogger("fleetnet.store")

# Sessions that begin in one transaction: some ms, which the first of them waits for the last.
_MOST = 256
# Leases that ended are given back with the next session that begins, or so soon: until then
# others see the device here.
_GIVE_BACK_S = 1.0
# A lease that another's transaction holds is tried again so often, and no longer than the ingest
# connection of a node that died keeps its locks (IDLE_S), and a moment for a busy server.
_AGAIN_S = 0.05
_HELD_S = 7.0
# An open transaction of a node that says nothing ends, with its locks; a commit's statements
# follow each other in ms.
IDLE_S = 5
# Of a client's own words.
_MOST_TEXT = 200

class _Asked(NamedTuple):
    device_id: int
    epoch: bytes
    about: SessionAbout
    done: Callable[[Begun | FleetError], None]


class _Waiting(NamedTuple):
    """Who waits, not before ``due`` and until ``until``; monotonic seconds."""

    asked: _Asked
    due: float
    until: float


_LOOK = _Asked(0, b"", SessionAbout("", ""), lambda _found: None)


class Leases:
    """The leases of one node. ``begin`` and ``end`` are for the loop's thread.

    Args:
        node: its name.

    Attributes:
        on_lost: called on the loop's thread with a device that another node has now.
    """

    def __init__(self, place: PostgresPlace, node: str):
        self.node = node
        self.on_lost: Callable[[int], None] | None = None
        self._place = place
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: dict[int, int] = {}
        self._ended: list[tuple[int, int]] = []
        self._doubted: set[int] = set()
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def begin(self, device_id: int, epoch: bytes, about: SessionAbout) -> asyncio.Future[Begun]:
        """Take a device's lease, number its epoch, read its marks and boots.

        Raises, when awaited:
            StoreUnavailable, StoreError.
        """
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Begun] = loop.create_future()

        def settle(found: Begun | FleetError) -> None:
            if future.done():
                return
            if isinstance(found, FleetError):
                future.set_exception(found)
            else:
                future.set_result(found)

        def done(found: Begun | FleetError) -> None:
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:  # the loop was closed: nobody waits
                pass

        if self._is_closed:
            raise StoreUnavailable(f"{self._place} is closed: the server stops")
        self._ask(_Asked(device_id, epoch, about, done))
        return future

    def begin_now(self, device_id: int, epoch: bytes, about: SessionAbout) -> Begun:
        """Do what ``begin`` does, on a thread that may wait."""
        found: SimpleQueue[Begun | FleetError] = SimpleQueue()
        self._ask(_Asked(device_id, epoch, about, found.put))
        begun = found.get()
        if isinstance(begun, FleetError):
            raise begun
        return begun

    def end(self, device_id: int) -> None:
        """Give a lease back, some time."""
        with self._lock:
            fence = self._held.pop(device_id, None)
            if fence is not None:
                self._ended.append((device_id, fence))

    def heard(self, device_id: int, fence: int, node: str) -> None:
        """A node took a lease, it is said; for any thread. Everybody can say so: see whether."""
        held = self._held.get(device_id)
        if node != self.node and held is not None and fence > held:
            self._doubt([device_id])

    def look(self) -> None:
        """Notifications may have been missed: read who has the devices; for any thread."""
        self._doubt(list(self._held))

    def _doubt(self, devices: list[int]) -> None:
        with self._lock:
            is_asked = bool(self._doubted)
            self._doubted.update(devices)
        if not is_asked:
            self._asked.put(_LOOK)

    def lost(self, devices: set[int], rows: list[tuple[int, int, str]]) -> set[int]:
        """Return which devices are not at this node, by what FENCES found in a commit."""
        found = {device: (fence, node) for device, fence, node in rows}
        gone = set()
        for device in devices:
            held = self._held.get(device)
            fence, node = found.get(device, (0, ""))
            # This node's own newer session may be beginning just now. An older fence: the
            # database lost transactions in a crash, and may give this one to another node.
            if held is None or fence < held or (node != self.node and (node or fence != held)):
                gone.add(device)
        return gone

    def close(self) -> None:
        """Give back all leases, and end the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._ended += self._held.items()
            self._held.clear()
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join()

    def _tell(self, device_id: int) -> None:
        loop = self._loop
        if loop is not None and self.on_lost is not None:
            try:
                loop.call_soon_threadsafe(self.on_lost, device_id)
            except RuntimeError:
                pass

    def _ask(self, asked: _Asked) -> None:
        if self._thread is None:
            self._thread = self._start()
        self._asked.put(asked)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="fleetnet-leases", daemon=True)
        thread.start()
        return thread

    # On the thread

    def _work(self) -> None:
        waiting: list[_Waiting] = []
        while not self._is_closed or waiting or not self._asked.empty():
            if not _next_group(waiting):
                self._hear(waiting, _AGAIN_S if waiting else _GIVE_BACK_S)
            while not self._asked.empty():
                self._hear(waiting, 0)
            if group := _next_group(waiting):
                held = self._answer([one.asked for one in group])
                waiting = self._remaining(waiting, group, held)
        self._give_all_back()
        self._drop_connection()

    def _hear(self, waiting: list[_Waiting], timeout_s: float) -> None:
        """Take the next request, and do at once what nobody waits for."""
        try:
            asked = self._asked.get(timeout=timeout_s) if timeout_s else self._asked.get_nowait()
        except Empty:
            if not waiting:
                self._do(self._look)
            return
        if asked is None or asked is _LOOK:
            self._do(self._look if asked else lambda: None)
        else:
            waiting.append(_Waiting(asked, 0.0, time.monotonic() + _HELD_S))

    def _remaining(
        self, waiting: list[_Waiting], group: list[_Waiting], held: set[int]
    ) -> list[_Waiting]:
        """Return who still waits, in order; those whose time is over are told."""
        now = time.monotonic()
        answered = {id(one) for one in group if one.asked.device_id not in held}
        left = []
        for one in waiting:
            if id(one) in answered:
                continue
            is_held = one.asked.device_id in held
            if is_held and now >= one.until:
                one.asked.done(StoreUnavailable(
                    f"{self._place}: another program holds the lease of this device: "
                    "see pg_stat_activity there"
                ))  # fmt: skip
                continue
            left.append(one._replace(due=now + _AGAIN_S) if is_held else one)
        return left

    def _give_all_back(self) -> None:
        """Give back what can be; a commit of another node may hold a lease for a moment."""
        until = time.monotonic() + _GIVE_BACK_S
        self._do(lambda: None)
        while self._ended and self._connection is not None and time.monotonic() < until:
            time.sleep(_AGAIN_S)
            self._do(lambda: None)

    def _do(self, work: Callable[[], None]) -> None:
        """Do what nobody waits for, behind giving back what has ended."""
        with self._lock:
            ended = self._ended[:]
        left: list[tuple[int, int]] = []
        try:
            with explained(self._place, "written"):
                if ended:
                    self._open().execute(GIVE_BACK, columns(ended))
                    left = self._open().execute(NOT_GIVEN, columns(ended)).fetchall()
                work()
        except FleetError as error:
            self._drop_connection()
            _log.info("leases are given back later: %s", error)
            return
        with self._lock:
            self._ended[: len(ended)] = left

    def _look(self) -> None:
        """See who has the devices that may be elsewhere; nothing more is stored of those."""
        with self._lock:
            doubted, self._doubted = self._doubted, set()
        if not doubted:
            return
        try:
            rows = self._open().execute(WHO, (list(doubted),)).fetchall()
        except BaseException:
            with self._lock:
                self._doubted |= doubted
            raise
        for device, fence, node in rows:
            # Also when that node has it no longer.
            if node != self.node and fence > self._held.get(device, fence):
                self._tell(device)

    def _answer(self, group: list[_Asked]) -> set[int]:
        """Begin sessions; return devices whose lease is held, and who got no answer."""
        group.sort(key=lambda one: one.device_id)
        found: dict[int, Begun | FleetError]
        try:
            with explained(self._place, "written"):
                found = {**self._begin_all(group)}
        except FleetError as error:
            self._drop_connection()
            found = {one.device_id: error for one in group}
        except Exception as error:
            self._drop_connection()
            _log.exception("sessions cannot begin")
            away = StoreUnavailable(f"{self._place}: {error}")
            found = {one.device_id: away for one in group}
        for asked in group:
            if asked.device_id in found:
                asked.done(found[asked.device_id])
        return {one.device_id for one in group} - found.keys()

    def _begin_all(self, group: list[_Asked]) -> dict[int, Begun]:
        connection = self._open()
        with connection.pipeline(), connection.transaction():
            here = [one for one in group if one.about.is_here]
            held = find_held(connection, [one.device_id for one in here]) if here else set()
            if held:
                group = [one for one in group if one.device_id not in held]
                here = [one for one in here if one.device_id not in held]
            ids, epochs = [one.device_id for one in group], [one.epoch for one in group]
            taken = connection.execute(TAKE, self._wanted(here)) if here else None
            made = connection.execute(NUMBER, (ids, epochs))
            numbered = connection.execute(NUMBERS, (ids, epochs))
            boots = connection.execute(BOOTS_OF, (ids,))
            numbers = dict(numbered.fetchall())
            every = list(numbers.values())
            marks = connection.execute(MARKS, (every, every)).fetchall()
            fences = taken.fetchall() if taken is not None else []
            offsets = boots.fetchall()
            if made.rowcount:
                connection.execute("SET LOCAL synchronous_commit = on")
        with self._lock:
            self._held.update(fences)
        # Another node may have taken one since, and said so when nothing was held here yet.
        self._doubt([device for device, _fence in fences])
        return as_begun(ids, numbers, marks, offsets)

    def _wanted(self, here: list[_Asked]) -> tuple[Any, ...]:
        return (
            self.node, time.time_ns() // 1_000_000, [one.device_id for one in here],
            [one.about.link for one in here], [one.about.address for one in here],
            [as_text(one.about.software)[:_MOST_TEXT] for one in here],
        )  # fmt: skip

    def _open(self) -> "psycopg.Connection[tuple[Any, ...]]":
        if self._connection is None:
            opened = connect(self._place)
            opened.execute("SET synchronous_commit = off")
            opened.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_S}s'")
            self._connection = opened
        return self._connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _next_group(waiting: list[_Waiting]) -> list[_Waiting]:
    """Return who can begin now in one transaction: the second of a device after the first."""
    now = time.monotonic()
    first: dict[int, _Waiting] = {}
    for one in waiting:
        first.setdefault(one.asked.device_id, one)
    return [one for one in first.values() if one.due <= now][:_MOST]
