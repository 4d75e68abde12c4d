"""`fleetnet`, made wrong on purpose: what arrives is acknowledged, and waits for its commit.

For the controls of test_kill.py and test_signals.py. The wait is longer than any test, so that
the fault shows with the first kill and not by chance. After 60 messages there is a file "hasty"
beside the store: some of their acknowledgements are out.
"""

import itertools
from typing import Any

from fleetnet_server.cli.main import main
from fleetnet_server.core.bodies import Message
from fleetnet_server.store.writer import Writer

count = itertools.count(1)


def acknowledge_first(writer: Writer[Any], message: Message, token: Any) -> None:
    if next(count) == 60:
        writer._store.path.with_name("hasty").touch()
    writer._on_durable([(message, token, True)])


if __name__ == "__main__":
    Writer.put = acknowledge_first  # type: ignore[method-assign]
    main()
