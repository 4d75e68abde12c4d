"""Group commit for an event loop: messages in, durable messages out.

The router puts messages; one thread commits them in batches; the loop hears of each batch
with one call. Nothing is acknowledged before its commit, and nothing is dropped: a batch
that cannot be written is tried again until it can.
"""

import asyncio
import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from operator import itemgetter
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.histogram import Histogram
from fleetnet_server.core.ports import Committed
from fleetnet_server.errors import StoreUnavailable

_log = logging.getLogger("fleetnet.store")

# Seconds of a commit: a good disk takes 1 to 10 ms, a bad one 100; an acknowledgement is as late.
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# So many times the length of a commit lies between its start and the next one's: the thread has
# no more than this share of the time, and the slower commits are, the larger they get. With one
# message a device and a commit, twice the rows are a third less CPU a message: each commit writes
# two pages of every device's.
_IDLE_SHARE = 5
# Longer than this only what is set as interval_s: most acknowledgements wait 100 ms for others,
# and over DTLS one that left before the commit would need another one behind it.
_LONGEST_S = 0.080
# Smaller batches gain nothing by waiting for others: a quiet server commits as soon as it may.
_LARGE_ROWS = 64

# Characters of the bodies in one commit, of those with more messages than always fit: in UTF-8
# less than the store process of `serve --workers` takes at once (channel.MAX_BYTES).
_MOST_TEXT = 16 << 20
_ALWAYS_FIT = 2048
_body = itemgetter(8)

Token = TypeVar("Token")
_Batch = tuple[list[Message], list[Token]]


class Committing(Protocol):
    """What a Writer needs of a store; SqliteStore is one."""

    on_deferred: Callable[[], None] | None

    @property
    def has_deferred(self) -> bool:
        """Something waits for the next commit."""

    def commit(self, batch: Sequence[Message]) -> Sequence[int] | Committed:
        """Store a batch; see SqliteStore.commit. Called on the Writer's thread."""


class Writer(Generic[Token]):
    """Commits messages on a thread of its own, and reports them on the loop.

    Made on a running loop, which it belongs to. After a commit ``on_durable`` gets
    (message, token, is_new) of the whole batch in order of ``put``; is_new is False for a
    message that was stored before (acknowledge it again, do not hand it on). What the store
    did not take because its device is at another server by now goes to ``on_lost``.

    Args:
        interval_s: least time between the starts of two commits. Longer makes larger
            batches: less CPU a message, later acknowledgements. Under load it grows by itself,
            to 80 ms (see _IDLE_SHARE); 0: it never waits.
        max_rows: a batch of this many does not wait, and none is larger.
        retry_s: first and longest pause between attempts while the store is unavailable.

    Attributes:
        took: seconds of each commit, from its beginning to the loop's hearing.
    """

    def __init__(
        self,
        store: Committing,
        on_durable: Callable[[list[tuple[Message, Token, bool]]], None],
        *,
        interval_s: float = 0.010,
        max_rows: int = 4096,
        retry_s: tuple[float, float] = (0.1, 5.0),
        on_lost: Callable[[list[tuple[Message, Token]]], None] | None = None,
    ):
        self._store = store
        self._on_durable = on_durable
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._max_rows = max_rows
        self._retry_s = retry_s
        self._loop = asyncio.get_running_loop()
        self._messages: list[Message] = []
        self._tokens: list[Token] = []
        self._in_flight = 0
        self._is_committing = False
        self._timer: asyncio.Handle | None = None
        self._next_start = 0.0
        self._commits = 0
        self._began = 0.0
        self.took = Histogram(_BOUNDS)
        self._durable = 0
        # (messages that must be durable, commits that must have ended, who waits)
        self._flushes: list[tuple[int, int, asyncio.Future[None]]] = []
        self._is_closed = False
        self._is_available = True
        self._batches: SimpleQueue[_Batch[Token] | None] = SimpleQueue()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fleetnet-store", daemon=True)
        self._thread.start()
        store.on_deferred = self._schedule

    @property
    def backlog(self) -> int:
        """Messages that were put and are not durable yet."""
        return self._in_flight + len(self._messages)

    @property
    def commits(self) -> int:
        """Commits that ended."""
        return self._commits

    @property
    def is_available(self) -> bool:
        """False while the store refuses to commit; what arrives meanwhile waits in memory."""
        return self._is_available

    @property
    def waiting_s(self) -> float:
        """Seconds since which one commit is under way, its attempts that failed included."""
        return self._loop.time() - self._began if self._is_committing else 0.0

    def put(self, message: Message, token: Token) -> None:
        """Queue a message; ``token`` comes back with it. Raises RuntimeError once closed."""
        if self._is_closed:
            raise RuntimeError("the writer is closed")
        self._messages.append(message)
        self._tokens.append(token)
        if self._timer is None or len(self._messages) == self._max_rows:
            self._schedule()

    async def flush(self) -> None:
        """Return when everything put before is durable; for ever while the store is not."""
        if not self.backlog and not self._is_committing and not self._store.has_deferred:
            return
        future = self._loop.create_future()
        # What is deferred may have missed the commit under way.
        commits = self._commits + 1 + self._is_committing if self._store.has_deferred else 0
        self._flushes.append((self._durable + self.backlog, commits, future))
        self._schedule()
        await future

    async def close(self, timeout_s: float = 5.0) -> int:
        """Commit what waits, end the thread, and return how many messages were left.

        Those that are left were never acknowledged: their devices send them again. The
        store itself stays open.
        """
        if self._is_closed:
            return self.backlog
        try:
            async with asyncio.timeout(timeout_s):
                await self.flush()
        except TimeoutError:
            _log.error(
                "store still unavailable: stopping with %d messages unstored; "
                "they were not acknowledged, their devices will send them again",
                self.backlog,
            )
        self._is_closed = True
        self._store.on_deferred = None
        self._give_up.set()
        self._batches.put(None)
        if self._timer is not None:
            self._timer.cancel()
        await self._loop.run_in_executor(None, self._thread.join)
        return self.backlog

    def _schedule(self) -> None:
        """Start a commit now or later; none while one is under way, whose end calls again."""
        if self._is_committing or self._is_closed:
            return
        if len(self._messages) >= self._max_rows:
            if self._timer is not None:
                self._timer.cancel()
            self._start()
        elif self._timer is None:
            wait = self._next_start - self._loop.time()
            # Even without a wait the rest of this turn's messages come along.
            if wait > 0:
                self._timer = self._loop.call_later(wait, self._start)
            else:
                self._timer = self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._timer = None
        if self._is_committing or self._is_closed:
            return
        count = self._most()
        messages, tokens = self._messages[:count], self._tokens[:count]
        del self._messages[:count]
        del self._tokens[:count]
        self._in_flight = len(messages)
        self._is_committing = True
        self._began = self._loop.time()
        self._next_start = self._began + self._interval_s
        self._batches.put((messages, tokens))

    def _most(self) -> int:
        """Return how many of those that wait go together."""
        count = min(self._max_rows, len(self._messages))
        if count > _ALWAYS_FIT:
            sizes = list(accumulate(map(len, map(_body, self._messages[:count]))))
            count = max(_ALWAYS_FIT, bisect_right(sizes, _MOST_TEXT))
        return count

    def _finish(
        self, messages: list[Message], tokens: list[Token], new: Sequence[int] | Committed
    ) -> None:
        self._in_flight = 0
        self._is_committing = False
        self._commits += 1
        took_s = self._loop.time() - self._began
        self.took.add(took_s)
        if 0 < self._interval_s < _LONGEST_S and len(messages) >= _LARGE_ROWS:
            wait_s = min(_IDLE_SHARE * took_s, _LONGEST_S)
            self._next_start = self._began + max(self._interval_s, wait_s)
        self._durable += len(messages)
        try:
            if messages:
                self._report(messages, tokens, new)
        finally:
            self._end_flushes()
            if self._messages or self._flushes or self._store.has_deferred:
                self._schedule()

    def _report(
        self, messages: list[Message], tokens: list[Token], new: Sequence[int] | Committed
    ) -> None:
        lost: frozenset[int] = frozenset()
        if isinstance(new, Committed):
            new, lost = new
        if len(new) == len(messages):
            self._on_durable(list(zip(messages, tokens, repeat(True), strict=False)))
            return
        chosen = set(new)
        self._on_durable([
            (message, tokens[index], index in chosen)
            for index, message in enumerate(messages)
            if index not in lost
        ])  # fmt: skip
        if lost and self._on_lost is not None:
            self._on_lost([(messages[index], tokens[index]) for index in sorted(lost)])

    def _end_flushes(self) -> None:
        waiting = []
        for messages, commits, future in self._flushes:
            if messages > self._durable or commits > self._commits:
                waiting.append((messages, commits, future))
            elif not future.done():
                future.set_result(None)
        self._flushes = waiting

    # On the writer's thread

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            messages, tokens = batch
            new = self._commit(messages)
            if new is None:
                return
            try:
                self._loop.call_soon_threadsafe(self._finish, messages, tokens, new)
            except RuntimeError:  # the loop was closed without close(): nobody to tell
                return

    def _commit(self, messages: list[Message]) -> Sequence[int] | Committed | None:
        """Commit until it succeeds; None when told to give up."""
        pause, longest = self._retry_s
        failed_at: float | None = None
        while True:
            try:
                new = self._store.commit(messages)
            except Exception as error:
                if failed_at is None:
                    failed_at = time.monotonic()
                    self._is_available = False
                    self._log_failure(error)
            else:
                if failed_at is not None:
                    self._is_available = True
                    _log.warning(
                        "store is available again after %.1f s; nothing was lost",
                        time.monotonic() - failed_at,
                    )
                return new
            if self._give_up.wait(pause):
                return None
            pause = min(2 * pause, longest)

    def _log_failure(self, error: Exception) -> None:
        _log.critical(
            "%s; nothing is acknowledged until it can be written again, which is tried by itself",
            error,
            exc_info=None if isinstance(error, StoreUnavailable) else error,
        )
