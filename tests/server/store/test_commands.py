"""CommandTable: states of commands, answers in the commit that stores them, configurations."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetnet.commands import encode_config_state, encode_result
from fleetnet.frame import CONFIG_STATE, RESULT
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.errors import StoreError
from fleetnet_server.store.commands import CommandTable
from server.store.two_stores import KINDS, begin, fresh_store

NOW = 1_800_000_000_000
LATER = 4_000_000_000_000
MONTH = 30 * 86_400_000


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with fresh_store(request, tmp_path) as opened:
        opened.add_device("cam-1")
        opened.add_device("cam-2")
        yield opened


@pytest.fixture
def table(store: Any) -> CommandTable:
    return CommandTable(store)


def store_message(
    store: Any, kind: int, body: bytes, device: int = 1, seq: list[int] = [0]  # noqa: B006
) -> None:
    seq[0] += 1
    found = inspect_body(kind, body, lambda boot: None, NOW)
    epoch = begin(store, device, b"epoch-%02d" % device)
    message = Message(
        device, epoch, 1, seq[0], kind, found.t0, found.t1, NOW, found.body, found.problem
    )
    assert list(store.commit([message])) == [0]


def state(table: CommandTable, command_id: str) -> tuple[str, Any]:
    command = table.get(command_id)
    assert command is not None
    return command.state, command.result


def test_a_command_from_queued_to_its_result(store: Any, table: CommandTable) -> None:
    first = table.add(1, "add", [1, 2], LATER)
    second = table.add(1, "add", {"a": 1}, LATER)
    other = table.add(2, "add", [], LATER)
    assert [command.id for command in table.unsent(1, NOW, 9)] == [first, second]
    assert [command.id for command in table.unsent(1, NOW, 1)] == [first]
    assert table.unanswered(1, 9) == []
    table.mark_sent([first], 7)
    table.mark_sent([first], 8)  # the first boot stays
    (sent,) = table.unanswered(1, 9)
    assert (sent.id, sent.device, sent.args, sent.sent_boot) == (first, "cam-1", [1, 2], 7)
    store_message(store, RESULT, encode_result(first, "ok", {"sum": 3}))
    assert state(table, first) == ("ok", {"sum": 3})
    assert table.unanswered(1, 9) == []
    # A second answer changes nothing.
    store_message(store, RESULT, encode_result(first, "error", ["Interrupted", ""]))
    assert state(table, first) == ("ok", {"sum": 3})
    assert state(table, second) == state(table, other) == ("queued", None)
    assert [command.id for command in table.recent(None, 2)] == [second, other]
    assert [command.id for command in table.recent(1)] == [first, second]


def test_news_are_found_by_number(table: CommandTable) -> None:
    assert table.newest() == (0, 0)
    table.add(2, "a", [], LATER)
    table.add(1, "b", [], LATER)
    assert table.added_after(0) == [(1, 2), (2, 1)]
    assert table.added_after(1) == [(2, 1)]
    table.set_config(2, {})
    table.set_config(1, {})
    assert table.edited_after(0) == [(1, 2), (2, 1)]
    table.set_config(2, {"a": 1})
    assert table.edited_after(2) == [(3, 2)]
    assert table.newest() == (2, 3)


def test_a_device_answers_its_own_commands_only(store: Any, table: CommandTable) -> None:
    mine = table.add(1, "add", [], LATER, boot=7)
    store_message(store, RESULT, encode_result(mine, "ok", "stolen"), device=2)
    assert state(table, mine) == ("sent", None)


def test_busy_keeps_a_command_open(store: Any, table: CommandTable) -> None:
    mine = table.add(1, "add", [], LATER, boot=7)
    store_message(store, RESULT, encode_result(mine, "busy"))
    assert [command.id for command in table.unanswered(1, 9)] == [mine]


@pytest.mark.parametrize("value", [b"[NaN]", b"\xff", b"]", b'{"a":', b"1,2"])
def test_a_result_that_cannot_be_read_ends_its_command(
    store: Any, table: CommandTable, value: bytes
) -> None:
    mine = table.add(1, "add", [], LATER, boot=7)
    store_message(store, RESULT, b'["%s","ok",%s]' % (mine.encode(), value))
    status, result = state(table, mine)
    assert (status, result[0]) == ("error", "ProtocolError")
    store_message(store, RESULT, b"\x00nothing")  # nobody's


def test_values_that_json_cannot_print_again_become_text(
    store: Any, table: CommandTable
) -> None:
    mine = table.add(1, "add", [], LATER, boot=7)
    store_message(store, RESULT, b'["%s","ok",[1e999,"a"]]' % mine.encode())
    assert json.dumps(table.get(mine), allow_nan=False)


def test_stale_commands_end(store: Any, table: CommandTable) -> None:
    never_sent = table.add(1, "add", [], NOW)
    sent = table.add(1, "add", [], NOW, boot=7)
    fresh = table.add(1, "add", [], NOW + 1)
    table.expire(NOW)
    assert [state(table, each)[0] for each in (never_sent, sent, fresh)] == [
        "expired",
        "sent",
        "queued",
    ]
    assert [command.id for command in table.unsent(1, NOW, 9)] == [fresh]
    table.expire(NOW + MONTH)
    assert state(table, sent)[0] == "lost"


def test_what_no_call_can_carry_is_refused(table: CommandTable) -> None:
    for name, args in (
        ("", []),
        ("n" * 65, []),
        ("a", 7),
        ("a", "text"),
        ("a", [float("nan")]),
        ("a", ["x" * 17_000]),
        ("a", {"a": {1: 2}}),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            table.add(1, name, args, LATER)
    assert table.newest() == (0, 0)
    with pytest.raises(StoreError, match="fleetnet device list"):
        table.device("nobody")


def test_configurations(store: Any, table: CommandTable) -> None:
    assert table.config(1) is None
    assert [table.set_config(1, {"rate": rate}) for rate in (5, 6)] == [1, 2]
    assert table.set_config(2, {}) == 1
    store_message(store, CONFIG_STATE, encode_config_state(1, "applied", {"rate": 5}))
    found = table.config(1)
    assert found is not None
    assert (found.version, found.document) == (2, {"rate": 6})
    assert (found.state_version, found.state, found.reported) == (1, "applied", {"rate": 5})
    store_message(store, CONFIG_STATE, encode_config_state(2, "rejected", "too fast"))
    found = table.config(1)
    assert found is not None
    assert (found.state_version, found.state, found.reported) == (2, "rejected", "too fast")
    # A version that nobody set, or that cannot be read, says nothing.
    store_message(store, CONFIG_STATE, encode_config_state(9, "applied", {}))
    store_message(store, CONFIG_STATE, b"[2,")
    assert table.config(1) == found
    table.note_config(1, 1)  # an old HELLO
    assert table.config(1) == found
    table.note_config(1, 2)
    assert table.config(1).state == "applied"  # type: ignore[union-attr]
    for document in ([], None, {"a": float("inf")}, {"a": "x" * 17_000}):
        with pytest.raises(ValueError, match=r"\w"):
            table.set_config(1, document)  # type: ignore[arg-type]
    assert table.config(1).version == 2  # type: ignore[union-attr]
