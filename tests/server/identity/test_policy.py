"""policy.toml: what is read, what is refused, and when a change counts."""

import os
from pathlib import Path

import pytest

from fleetnet import errors
from fleetnet_server.errors import ConfigError
from fleetnet_server.identity import pki
from fleetnet_server.identity.authenticate import LinkIdentity, Refusal, Stranger, authenticate
from fleetnet_server.identity.policy import Names, Policy, PolicyFile, Rules, load_policy
from fleetnet_server.identity.registry import Device

FULL = """
unknown = "quarantine"
[group.sensors]
channels = ["temp*", "door"]
max_rate = 0.5
max_message = 4096
max_blob = 0
commands = ["read_?"]
issuers = ["cli:*"]
[group.default]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    policy = load_policy(tmp_path)
    assert policy.unknown == "quarantine"
    assert policy.rules("sensors") == Rules(
        Names(["temp*", "door"]), 0.5, 4096, 0, Names(["read_?"]), Names(["cli:*"])
    )
    assert policy.rules("default") is None
    assert policy.rules("elsewhere") is None


def test_a_group_without_a_section_follows_the_default(tmp_path: Path) -> None:
    write(tmp_path, "[group.default]\nmax_rate = 1\n[group.free]\n")
    policy = load_policy(tmp_path)
    assert policy.rules("elsewhere") == Rules(max_rate=1.0)
    assert policy.rules("free") is None


def test_no_file_restricts_nothing_and_refuses_strangers(tmp_path: Path) -> None:
    assert load_policy(tmp_path) == Policy("refuse", {})
    assert load_policy(tmp_path).rules("default") is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("unkown = 'accept'", "unknown key 'unkown'; did you mean 'unknown'?"),
        ("unknown = 'sometimes'", "unknown = 'sometimes': write one of refuse, quarantine, accept"),
        ("[group.a]\nchanels = []", "[group.a]: unknown key 'chanels'; did you mean 'channels'?"),
        ("[group.a]\nchannels = 'temp'", "channels = 'temp': write a list"),
        ("[group.a]\nchannels = ['']", "write a list"),
        ("[group.a]\nissuers = [3]", "write a list"),
        ("[group.a]\nmax_rate = 0", "max_rate = 0: write a number above 0"),
        ("[group.a]\nmax_rate = true", "max_rate = True"),
        ("[group.a]\nmax_rate = nan", "max_rate = nan"),
        ("[group.a]\nmax_rate = inf", "max_rate = inf"),
        ("[group.a]\nmax_message = 1.5", "max_message = 1.5: write a whole number"),
        ("[group.a]\nmax_blob = -1", "max_blob = -1"),
        ("[group.'A b']\n", "name a group"),
        ("group = 3", "write sections"),
        ("[group]\na = 3", "write a section"),
        ("unknown = ", "cannot be read"),
        ("x = '" + "a" * (1 << 20) + "'", "is larger than"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_names() -> None:
    names = Names(["temp*", "door"])
    assert "temperature" in names
    assert "Temp" not in names
    assert "doors" not in names
    assert "x" not in Names([])
    for number in range(5000):  # a device that invents channels fills no memory
        assert f"n{number}" not in names
        assert len(names._known) <= 1024
    assert "door" in names and names._known["door"]  # it is looked up once
    assert repr(names) == "Names(['temp*', 'door'])"
    assert hash(names) == hash(Names(["temp*", "door"])) != hash(Names(["door"]))


@pytest.mark.parametrize(
    ("key", "most", "more"),
    [
        ("max_rate", "1000000", "1000001"),
        ("max_rate", "1000000.0", "1000000.5"),
        ("max_message", str(1 << 40), str((1 << 40) + 1)),
        ("max_blob", str(1 << 40), str((1 << 40) + 1)),
    ],
)
def test_numbers_at_their_bounds(key: str, most: str, more: str, tmp_path: Path) -> None:
    write(tmp_path, f"[group.a]\n{key} = {most}\n")
    rules = load_policy(tmp_path).rules("a")
    assert rules is not None and getattr(rules, key) == float(most)
    write(tmp_path, f"[group.a]\n{key} = {more}\n")
    with pytest.raises(ConfigError, match=key):
        load_policy(tmp_path)


def test_who_may_give_which_command() -> None:
    rules = Rules(commands=Names(["read_*"]), issuers=Names(["cli:*"]))
    assert rules.objection("read_all", "cli:ann") == ""
    assert "no command 'reboot'" in rules.objection("reboot", "cli:ann")
    assert "program may not" in rules.objection("read_all", "program")
    assert "nobody may not" in rules.objection("read_all", "")
    assert Rules().objection("reboot", "") == ""


def test_a_change_counts_when_the_file_rests(tmp_path: Path) -> None:
    path = write(tmp_path, "[group.a]\nmax_rate = 1\n")
    file = PolicyFile(tmp_path)
    assert file.problem == ""
    assert file.refresh() is False
    path.write_text("")  # an editor begins to write
    assert file.refresh() is False
    path.write_text("[group.a]\nmax_rate = 2\n")
    assert file.refresh() is False
    assert file.refresh()
    assert file.policy.rules("a") == Rules(max_rate=2.0)
    kept = file.policy
    assert [file.refresh() for _ in range(3)] == [False] * 3
    assert file.policy is kept, "a file that rests is not read again"
    os.utime(path, ns=(1, 1))  # another time, the same rules
    assert [file.refresh() for _ in range(3)] == [False] * 3


def test_a_broken_or_missing_file_keeps_the_old_rules(tmp_path: Path) -> None:
    path = write(tmp_path, "[group.a]\nmax_rate = 1\n")
    file = PolicyFile(tmp_path)
    path.write_text("[group.a]\nmax_rat = 2\n")
    assert [file.refresh() for _ in range(3)] == [False] * 3
    assert "max_rate" in file.problem
    path.unlink()
    assert [file.refresh() for _ in range(3)] == [False] * 3
    assert "is gone: put it back" in file.problem
    assert file.policy.rules("a") == Rules(max_rate=1.0)
    path.write_text("")
    assert [file.refresh(), file.refresh()] == [False, True]
    assert file.problem == ""
    assert file.policy == Policy()


class Devices(dict[str, Device]):
    """A registry in memory; ``removed``: names that somebody removed."""

    removed: tuple[str, ...] = ()

    def lookup(self, name: str) -> Device | None:
        return self.get(name)

    def was_removed(self, name: str) -> bool:
        return name in self.removed

    def admit(self, name: str, state: str, serial: int, policy: str) -> None:
        raise AssertionError


def test_strangers_of_a_trusted_ca() -> None:
    credential = pki.issue_device(pki.create_ca(), "cam-1")
    link = LinkIdentity(credential.certificate)
    nobody = Devices()
    for unknown, state in (("accept", "enabled"), ("quarantine", "quarantined")):
        found = authenticate(link, nobody, unknown)
        assert found == Stranger("cam-1", credential.serial, state, unknown)
    refused = authenticate(link, nobody, "refuse")
    assert isinstance(refused, Refusal)
    assert refused.reason == errors.UNKNOWN_DEVICE
    nobody.removed = ("cam-1",)
    refused = authenticate(link, nobody, "accept")
    assert isinstance(refused, Refusal)
    # A pre-shared key without a device cannot be; nothing is made of it.
    refused = authenticate(LinkIdentity(psk_identity=b"cam-2.1"), Devices(), "accept")
    assert isinstance(refused, Refusal)
