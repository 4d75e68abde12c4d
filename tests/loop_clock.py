"""The clock of the running event loop, put forward: a deadline is over when the test says so.

A deadline that a busy machine could miss is given as minutes; when everything is as the test
wants it, the minutes pass at once.
"""

import asyncio


def put_forward(seconds: float) -> None:
    """Let so much time pass; what is due by then happens in the loop's next turn.

    Not inside of ``asyncio.timeout``: its deadline would be over, too.
    """
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]
