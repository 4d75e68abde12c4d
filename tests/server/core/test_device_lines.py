"""The budget of log lines that each device has."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from fleetnet.commands import REJECTED, encode_config_state
from fleetnet.frame import COMMANDS, CONFIG_STATE
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.configs import Configs
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.peer import Peer
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.sqlite import SqliteStore


def test_the_first_five_then_one_in_ten_seconds_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    lines = DeviceLines("stones", lambda: now)
    assert [lines.take(1, "cam-1") for _ in range(9)] == 5 * [True] + 4 * [False]
    assert lines.take(2, "cam-2")  # the others have theirs
    assert caplog.messages == []
    now = 9.9
    assert not lines.take(1, "cam-1")
    now = 10.1
    assert lines.take(1, "cam-1") and not lines.take(1, "cam-1")
    assert caplog.messages == ["device cam-1: 5 more lines about stones were left out"]
    now = 100.0
    assert [lines.take(1, "cam-1") for _ in range(6)] == 5 * [True] + [False]
    assert caplog.messages[1:] == ["device cam-1: 1 more lines about stones were left out"]


async def test_a_device_that_rejects_its_configuration_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SqliteStore(tmp_path / "fleet.db") as store:
        configs = Configs(CommandTable(store))
        told: list[str] = []
        configs.tell = lambda kind, *rest: told.append(kind)
        peer = SimpleNamespace(device_id=store.add_device("cam-1").id, name="cam-1")
        for seq in range(40):
            body = encode_config_state(7, REJECTED, "no such mode")
            message = Message(peer.device_id, 1, COMMANDS, seq, CONFIG_STATE, None, None, 1, body)
            configs.durable(cast(Peer, peer), message)
        assert told == 40 * ["config-rejected"]  # events and the store have all
    assert len([text for text in caplog.messages if "rejects version 7" in text]) == 5
