"""A process that stores messages and reports on its standard output what is durable.

Usage: committing_child.py STORE FIRST_SEQ [LIMIT_BYTES]

Prints `stored SEQ...` for each durable batch. With LIMIT_BYTES no file may grow beyond it
(a full disk in all but name: write() fails); after a line on standard input it may again.
Log records go to standard output as `log LEVEL`.
"""

import asyncio
import logging
import resource
import signal
import sys

from fleetnet_server.core.bodies import Message
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer

BODY = '[1,0,["t"],[[0,0,"' + "x" * 400 + '"]]]'


class LogToStdout(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print("log", record.levelname, flush=True)


def report(done: list[tuple[Message, int, bool]]) -> None:
    print("stored", *(token for _message, token, _new in done), flush=True)


def allow_growth(limit: int) -> None:
    if sys.stdin.readline():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


async def run(path: str, seq: int, limit: int | None) -> None:
    store = SqliteStore(path)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        asyncio.get_running_loop().add_reader(0, allow_growth, hard)
    writer = Writer[int](store, report, interval_s=0.001, retry_s=(0.02, 0.1))
    epoch = store.epoch_id(1, b"epoch-01")
    while True:
        for _message in range(20):
            writer.put(Message(1, epoch, 3, seq, 16, 1, 1, 1, BODY), seq)
            seq += 1
        await asyncio.sleep(0.002 if writer.backlog < 200 else 0.05)


if __name__ == "__main__":
    logging.getLogger("fleetnet.store").addHandler(LogToStdout())
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None))
