"""FOLDER/mqtt.toml: what is right is taken, what is wrong is named with its place."""

import re
from pathlib import Path

import pytest

from fleetnet_server.bridge.reading import Section
from fleetnet_server.bridge.settings import load_mqtt
from fleetnet_server.errors import ConfigError
from rules.tree import ROOT

BROKER = '[broker]\nhost = "broker"\n'


def load(folder: Path, text: str) -> object:
    (folder / "mqtt.toml").write_text(text)
    return load_mqtt(folder)


def test_no_file_no_bridge(tmp_path: Path) -> None:
    assert load_mqtt(tmp_path) is None


def test_a_host_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mqtt.toml").write_text(BROKER)
    found = load_mqtt(tmp_path)
    assert found is not None
    assert (found.broker.port, found.broker.tls, found.broker.name) == (1883, None, "fleetnet")
    assert found.readings.mode == "batch" and found.readings.out.qos == 1
    assert not (found.commands.is_on or found.config.is_on or found.frames.out.is_on)
    (tmp_path / "mqtt.toml").write_text(BROKER + "[broker.tls]\n")
    found = load_mqtt(tmp_path)
    assert found is not None and found.broker.port == 8883


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[readings]\n", r"write \[broker\]"),
        ("[broker]\n", r"\[broker\] host: is missing"),
        ("[brokr]\n", r"did you mean \[broker\]"),
        ("broker = 3\n", r"write a section"),
        (BROKER + "prot = 1883\n", r"unknown key 'prot'; did you mean 'port'"),
        (BROKER + "port = 70000\n", r"whole number, 1 to 65535"),
        (BROKER + "port = true\n", r"whole number"),
        (BROKER + 'password_file = "x"\n', "needs a user"),
        (BROKER + '[broker.tls]\ncert = "x"\n', "cert and key"),
        (BROKER + '[broker.tls]\npsk_identity = "x"\n', "psk_file"),
        (BROKER + '[broker.tls]\nca="a"\npsk_identity = "x"\npsk_file="b"\n', "takes the place"),
        (BROKER + '[readings]\nmode = "bulk"\n', "write one of batch, single"),
        (BROKER + '[readings]\npayload = "value"\n', 'needs mode = "single"'),
        (BROKER + '[readings]\ntopic = "all"\n', r"lacks \{device\}"),
        (BROKER + '[readings]\nkeep = "7 days"\n', "is no age"),
        (BROKER + "[readings]\nqos = 2\n", "0 to 1"),
        (BROKER + '[readings]\ndevices = "cam"\n', "list of names"),
        (BROKER + '[frames]\nmax = "1G"\n', "is no size"),
        (BROKER + '[events]\nenabled = "yes"\n', "true or false"),
        (BROKER + "[home_assistant]\nenabled = true\n", "enable these two"),
        (BROKER + '[home_assistant]\nchannel = 3\n', r"\[\[home_assistant.channel\]\]"),
        (BROKER + '[[home_assistant.channel]]\ndevice_class = "heat"\n', "none of sensor's"),
        (BROKER + '[[home_assistant.channel]]\nstate_class = "sum"\n', "write one of"),
        (BROKER + '[[home_assistant.channel]]\nplatform = "binary_sensor"\nunit="V"\n', "neither"),
        (BROKER + '[[home_assistant.channel]]\ndevice_class = "aqi"\nunit = "V"\n', "has no unit"),
        (BROKER + '[[home_assistant.channel]]\nicon = "x"\n', "mdi:"),
        (BROKER + '[commands]\nenabled = true\n[readings]\nmode="single"\n'
         'topic = "fleetnet/{device}/command/{channel}"\n', "come in again"),
        ("[broker\n", "cannot be read"),
        ("#" * (1 << 20) + "\n", "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "mqtt.toml") in str(caught.value)


PAGE = (ROOT / "docs" / "mqtt.md").read_text(encoding="utf-8")


def test_what_the_page_shows_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        load(tmp_path, block if "[broker]" in block else BROKER + block)


def test_the_page_has_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    monkeypatch.setattr(Section, "finish", lambda self: known.update(self._known))
    load(
        tmp_path,
        BROKER + "[broker.tls]\n[home_assistant]\n[[home_assistant.channel]]\nname = 'x'\n",
    )
    assert len(known) > 30
    words = set(re.findall(r"[a-z_]+", PAGE))
    assert known - words == set()
