"""`fleetnet`, made wrong on purpose: what arrives is acknowledged, and waits for its commit.

For the control of test_kill.py. The wait is longer than any test, so that the fault shows
with the first kill and not by chance.
"""

from typing import Any

from fleetnet_server.cli.main import main
from fleetnet_server.core.bodies import Message
from fleetnet_server.store.writer import Writer


def acknowledge_first(writer: Writer[Any], message: Message, token: Any) -> None:
    writer._on_durable([(message, token, True)])


if __name__ == "__main__":
    Writer.put = acknowledge_first  # type: ignore[method-assign]
    main()
