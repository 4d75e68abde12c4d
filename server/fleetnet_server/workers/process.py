"""How a process of the server runs: its files, its signals, its event loop, its end."""

import asyncio
import gc
import resource
import signal
from collections.abc import Coroutine
from typing import Any

# The drain by itself ends after 5 s for the last commit, 1 s for hubs, 3 s for the good-byes, 5 s
# for the writer, 3 s for the HTTP port and 4 s for the bridge to MQTT, at the latest; whatever
# hangs beyond that is ended, with its stacks in the log.
DRAIN_S = 22

# The same of the workers, and then of the store process, which has no devices to say good-bye to.
WORKER_DRAIN_S, STORE_DRAIN_S = 13, 9


def use_all_files() -> None:
    """Let this process have as many files open as it may: each TLS session is one of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a unit with limits of its own may forbid the call
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_what_is_made() -> None:
    """What start-up made stays; messages come and go without cycles, so the collector may look
    less often than every 700 allocations."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def on_stop(numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)) -> asyncio.Event:
    """Return what is set by these signals; the second one ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in numbers:
            # The second one is the kernel's to obey: it ends a loop that hangs, too. What was
            # acknowledged is on the disk.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stopping.set()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    return stopping


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, which takes twice as many handshakes a second as asyncio's loop."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
