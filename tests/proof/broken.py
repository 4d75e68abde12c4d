"""`fleetnet`, made wrong on purpose: the known-bad variants of the scoreboard's controls.

    PROOF_BREAK=ack-early python tests/proof/broken.py -C FOLDER serve

PROOF_BREAK names one or more of BREAKS, separated by commas. Imported as a module it breaks the
process that imports it: tests/proof/breaking.py does so for a run of pytest, whose servers are
forked off such a process.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import apsw

from fleetnet import limits
from fleetnet.events import Received
from fleetnet.frame import FrameSplitter
from fleetnet.ports import openssl_dtls
from fleetnet.ports.openssl_dtls import DtlsAcceptor
from fleetnet.receiver import Receiver
from fleetnet.session_link import Keepalive
from fleetnet_server.core import duplicates, watch
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.peer import Peer
from fleetnet_server.store import batch, schema, sqlite, writer


def ack_early() -> None:
    """What arrives is acknowledged first, and stored a while later."""
    put = writer.Writer.put

    def acknowledge_first(self: writer.Writer[Any], message: Message, token: Any) -> None:
        self._on_durable([(message, token, True)])
        self._loop.call_later(1.0, put, self, message, token)

    def nothing(done: Any) -> None:
        return None

    def finish(self: writer.Writer[Any], *found: Any) -> None:
        kept, self._on_durable = self._on_durable, nothing
        try:
            end(self, *found)
        finally:
            self._on_durable = kept

    end = writer.Writer._finish
    writer.Writer.put = acknowledge_first  # type: ignore[method-assign]
    writer.Writer._finish = finish  # type: ignore[method-assign]


def sync_off() -> None:
    """A commit does not wait for the disk."""
    opened = schema.open_writable

    def open_writable(path: Any) -> apsw.Connection:
        connection = opened(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    schema.open_writable = open_writable


def small_log() -> None:
    """No fault: the log is written back every 40 pages, so that a short run meets it often."""
    schema._CHECKPOINT_PAGES = 40


def no_dedup() -> None:
    """What comes again is stored again, under another number."""
    insert, numbers = sqlite.insert, itertools.count(1)
    known = "SELECT 1 FROM messages WHERE epoch = ? AND stream = ? AND seq = ?"

    def insert_all(connection: apsw.Connection, messages: Sequence[Message]) -> int:
        stored = 0
        for message in messages:
            if connection.execute(known, message[1:4]).get is not None:
                message = message._replace(seq=(1 << 40) + next(numbers))
            stored += insert(connection, [message])
        return stored

    receive = Receiver.receive

    def receive_again(
        self: Receiver, number: int, seq: int, kind: int, flags: int, payload: bytes, now: int
    ) -> None:
        stream = self.streams.get(number)
        if stream is not None and seq < stream.next:
            self._events.append(Received(number, seq, kind, payload))
        receive(self, number, seq, kind, flags, payload, now)

    sqlite.insert = batch.insert = insert_all
    sqlite.newly_stored = lambda connection, messages, stored: range(len(messages))
    Receiver.receive = receive_again  # type: ignore[method-assign]


def deaf() -> None:
    """What other programs write into the store is not looked at."""
    watch.Watch.look = lambda self: None  # type: ignore[method-assign]


def no_alarm() -> None:
    """Two devices with one identity are nobody's business."""
    duplicates.Duplicates.replaces = lambda self, *of: False  # type: ignore[method-assign]


def no_cookie() -> None:
    """Each ClientHello makes the state of a handshake, whoever sent it."""
    def begin(self: Any, data: bytes, address: Any, now: float) -> None:
        parsed = openssl_dtls.parse_hello_untrusted(data)
        if parsed is not None and len(self.half_open) < 100_000:
            ssl = openssl_dtls.SslObject(self.context, peer=str(address), mtu=self._mtu)
            ssl.feed(data)
            self.half_open[address] = SimpleNamespace(address=address, ssl=ssl)
            answer = openssl_dtls.hello_verify_request(data[5:11], bytes(16))
            self._transmit(answer + bytes(2 * len(data)), address)

    DtlsAcceptor._receive_hello_untrusted = begin  # type: ignore[method-assign]


def fragile() -> None:
    """A datagram is taken to be a whole record."""
    receive = DtlsAcceptor.receive

    def receive_record(self: DtlsAcceptor, data: bytes, address: Any, now: float) -> None:
        if data[11] * 256 + data[12] != len(data) - 13:
            raise ValueError("no record")
        receive(self, data, address, now)

    DtlsAcceptor.receive = receive_record  # type: ignore[method-assign]


def no_window() -> None:
    """A device may send as much as it likes, however slow the store is."""
    limits.WINDOW = limits.MAX_WINDOW = 1 << 20
    Peer._window = lambda self: limits.WINDOW  # type: ignore[method-assign]


def no_limit() -> None:
    """A frame may be as long as it says: what came of it is kept."""
    kept: list[bytes] = []

    def split(self: FrameSplitter, data: bytes) -> list[tuple[int, int, int, bytes]]:
        kept.append(data)
        return []

    FrameSplitter.split = split  # type: ignore[method-assign]


def stubborn() -> None:
    """A device that never takes a silent link for dead."""
    handle = Keepalive.handle_timer

    def handle_timer(self: Keepalive, now: int) -> bytes:
        ping = handle(self, now)
        if self.is_dead:
            self.is_dead, self._tries = False, 0
        return ping

    Keepalive.handle_timer = handle_timer  # type: ignore[method-assign]


def one_attempt() -> None:
    """A device that tries once."""
    from fleetnet_device.backoff import Backoff

    Backoff.after = lambda self, *_, **__: 1 << 29  # type: ignore[method-assign]


def _commits_take(seconds: float) -> None:
    commit = sqlite.SqliteStore.commit

    def late(self: sqlite.SqliteStore, messages: Sequence[Message]) -> Sequence[int]:
        time.sleep(seconds)
        return commit(self, messages)

    sqlite.SqliteStore.commit = late  # type: ignore[method-assign]


def slow_commit() -> None:
    """No fault of the server's: its disk takes half a second for each commit."""
    _commits_take(0.5)


def disk_that_turns() -> None:
    """No fault of the server's: its disk takes 5 ms for each commit."""
    _commits_take(0.005)


def cut_at_reload() -> None:
    """New certificates come into force by ending every session."""
    from fleetnet import errors
    from fleetnet_server.app import Backend

    reloaded = Backend._on_reload

    def on_reload(self: Backend) -> None:
        reloaded(self)
        for peer in list(self.sessions.live.values()):
            self.sessions.dismiss(peer, errors.GOING_AWAY)

    Backend._on_reload = on_reload  # type: ignore[method-assign]


def lossy_outbox() -> None:
    """Whatever waits for the broker is forgotten when the server starts."""
    from fleetnet_server.bridge.outgoing import Outgoing

    start = Outgoing.start

    async def forget(self: Outgoing) -> None:
        await start(self)
        while self.place:  # not the first start
            last, rows = await self._run(self._outbox.read, self._done, 256)
            if not rows and last <= self._done:
                break
            self._done = max(last, *(row.id for row in rows)) if rows else last

    Outgoing.start = forget  # type: ignore[method-assign]


def postgres_ack_early() -> None:
    """A batch is said to be stored, and goes to the database with the next one."""
    from fleetnet_server.store.postgres.store import PostgresStore

    commit = PostgresStore.commit
    held: list[Sequence[Message]] = []

    def later(self: PostgresStore, messages: Sequence[Message]) -> Any:
        before, held[:] = list(held), [messages]
        for each in before:
            commit(self, each)
        return range(len(messages))

    PostgresStore.commit = later  # type: ignore[method-assign]


BREAKS: dict[str, Callable[[], None]] = {
    "ack-early": ack_early,
    "sync-off": sync_off,
    "small-log": small_log,
    "no-dedup": no_dedup,
    "deaf": deaf,
    "no-alarm": no_alarm,
    "no-cookie": no_cookie,
    "fragile": fragile,
    "no-window": no_window,
    "no-limit": no_limit,
    "stubborn": stubborn,
    "one-attempt": one_attempt,
    "slow-commit": slow_commit,
    "disk-that-turns": disk_that_turns,
    "cut-at-reload": cut_at_reload,
    "lossy-outbox": lossy_outbox,
    "postgres-ack-early": postgres_ack_early,
}


def apply() -> None:
    """Break what the environment names."""
    for name in filter(None, os.environ.get("PROOF_BREAK", "").split(",")):
        BREAKS[name]()


apply()

if __name__ == "__main__":
    from fleetnet_server.cli.main import main

    main()
