"""How the end of a session is told, and what is left of it when there is no memory for words."""

import builtins
from collections.abc import Callable
from typing import Any

import pytest

from fleetnet.endpoint import Endpoint
from fleetnet.errors import DISABLED, IDLE, NORMAL, FleetError, LinkClosed, ProtocolError, Rejected
from fleetnet.events import Closed, Refused
from fleetnet.handshake import Ending


class Link:
    what = "10.0.0.1:7443"


def end(event: Closed | Refused) -> FleetError | None:
    """What Endpoint.run raises at the end of a session that ended so."""
    session: Any = None
    link: Any = Link()
    try:
        Endpoint(session, link, lambda event: None)._raise_ending(event)
    except FleetError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (Closed(Ending(NORMAL), False), type(None), ""),
        (Closed(Ending(NORMAL), True), LinkClosed, "ended the session: normal end"),
        (Closed(Ending(IDLE, 0, "nothing for 9 ms"), False), LinkClosed, "fell silent: nothing"),
        (Closed(Ending(4, 0, "bad frame"), False), ProtocolError, "bad frame"),
        (Closed(Ending(DISABLED), True), Rejected, "device is disabled"),
        (Refused(Ending(DISABLED, 7, "by hand")), Rejected, "device is disabled: by hand"),
    ],
)
def test_endings_are_named(event: Closed | Refused, kind: type, words: str) -> None:
    error = end(event)
    assert type(error) is kind and words in str(error)


def test_without_memory_for_the_words_the_reason_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Callable[..., Any] = builtins.__import__

    def short(name: str, *arguments: Any) -> Any:
        if name == "fleetnet.reasons":
            raise MemoryError
        return known(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", short)
    error = end(Refused(Ending(DISABLED)))
    assert type(error) is Rejected, "the device stays away for longer"
    assert str(error) == "10.0.0.1:7443: ended for reason 7"
    assert type(end(Closed(Ending(NORMAL), True))) is LinkClosed
    assert end(Closed(Ending(NORMAL), False)) is None
