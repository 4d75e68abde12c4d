"""docs/configuration.md has every key of every file, with its type, bounds and default."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from fleetnet_server.bridge import settings as mqtt
from fleetnet_server.bridge.reading import Section
from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.identity import policy
from fleetnet_server.reloading import CHANGEABLE
from fleetnet_server.store import lifetimes
from interpreters import ROOT

PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
SERVER = ROOT / "server" / "fleetnet_server"


def rows(title: str) -> dict[str, list[str]]:
    """Return the table rows below a heading of level 2, by their first cell."""
    part = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    found: dict[str, list[str]] = {}
    for line in part.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[0] not in found, f"{cells[0]} twice"
            found[cells[0].strip("`")] = cells[1:]
    return found


def shown(value: object) -> str:
    """Return a default as the page shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.10g}"
    return f"`{json.dumps(value)}`" if isinstance(value, str) else f"`{json.dumps(list(value))}`"


def bounded(kind: str, least: object, above: object, most: object) -> str:
    if above is not None:
        return f"{kind}, above {above:g}" + (f", to {most:g}" if most is not None else "")
    if most is None:
        return kind if least is None else f"{kind}, from {least}"
    return f"{kind}, {least:g} to {most if isinstance(most, int) else f'{most:g}'}"


def setting_row(key: str) -> list[str]:
    field = Settings.model_fields[key]
    bounds: dict[str, Any] = {
        name: getattr(one, name)
        for one in field.metadata for name in ("ge", "gt", "le") if hasattr(one, name)
    }  # fmt: skip
    kinds = {int: "whole", float: "number", bool: "true or false", str: "text"}
    kind = kinds[field.annotation]  # type: ignore[index]
    if field.annotation in (int, float):
        kind = bounded(kind, bounds.get("ge"), bounds.get("gt"), bounds.get("le"))
    assert field.default is not PydanticUndefined
    return [kind, shown(field.default), "yes" if key in CHANGEABLE else "no"]


@pytest.mark.parametrize("key", Settings.model_fields)
def test_a_setting_is_there(key: str) -> None:
    found = rows("fleetnet.toml")
    wanted = setting_row(key)
    assert key in found, f"add to docs/configuration.md: | `{key}` | {' | '.join(wanted)} | ... |"
    assert found[key][:3] == wanted, key
    assert len(found[key][3]) > 8, f"{key}: what is it?"


def test_no_setting_is_made_up() -> None:
    assert set(rows("fleetnet.toml")) == set(Settings.model_fields)


def test_policy() -> None:
    found = rows("policy.toml")
    assert set(found) == {"unknown", *policy.Rules._fields}
    assert re.findall(r"`(\w+)`", found["unknown"][0]) == list(policy._UNKNOWN)
    assert found["unknown"][1] == f"`{policy.Policy().unknown}`"
    assert found["max_rate"][0] == f"number, above 0, to {policy._MAX_RATE:.0f}"


def test_retention(tmp_path: Path) -> None:
    wanted = {f"[[rule]] {key}" for key in lifetimes._RULE}
    wanted |= {f"[[blobs.rule]] {key}" for key in lifetimes._BLOB_RULE}
    for section, known in (("messages", ("keep",)), ("blobs", ("all",))):
        wanted |= {f"[{section}] {key}" for key in known}
        # What else the section could have is told by the error about a key that it has not.
        (tmp_path / "retention.toml").write_text(f"[{section}]\nx = 1\n")
        with pytest.raises(ConfigError, match=rf"known are {', '.join(known)}") as caught:
            lifetimes.load_lifetimes(tmp_path)
        named = str(caught.value).rpartition("known are ")[2].split(", ")
        assert set(named) - {"rule"} == set(known)
    assert set(rows("retention.toml")) == wanted


class Recording(Section):
    """A section that has nothing, and notes what is asked of it."""

    asked: dict[str, tuple[str, object]] = {}  # noqa: RUF012 - of one test

    def __init__(self, name: str):
        super().__init__(Path("mqtt.toml"), name, {})
        self._heading = name

    def _note(self, key: str, kind: str, default: object) -> None:
        place = f"[{self._heading}] {key}"
        self.asked["[" + place.replace("] ", "]] ") if "channel]" in place else place] = (
            kind, default,
        )  # fmt: skip

    def section(self, key: str) -> "Recording":
        return Recording(f"{self._heading}.{key}")

    def sections(self, key: str) -> list[Section]:
        return [Recording(f"{self._heading}.{key}")]

    def text(self, key: str, default: str | None = None, most: int = 1000) -> str:
        self._note(key, "text", default)
        return default if default is not None else "x"

    def choice(self, key: str, default: str, known: tuple[str, ...]) -> str:
        words = [f"`{one}`" for one in known]
        self._note(key, f"{', '.join(words[:-1])} or {words[-1]}", f"`{default}`")
        return default

    def flag(self, key: str, default: bool) -> bool:
        self._note(key, "true or false", default)
        return default

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        self._note(key, f"whole, {least} to {most}", default)
        return default

    def number(self, key: str, default: float, least: float, most: float) -> float:
        self._note(key, f"number, {least:g} to {most:g}", default)
        return default

    def age(self, key: str, default: float | None) -> float | None:
        self._note(key, "age", None if default is None else f"{default / 86_400:g}d")
        return default

    def size(self, key: str, default: int) -> int:
        self._note(key, "size", f"{default >> 20}M")
        return default

    def names(self, key: str, default: tuple[str, ...] = ("*",)) -> tuple[str, ...]:
        self._note(key, "patterns" if default == ("*",) else "patterns of topics", default)
        return default

    def template(self, key: str, default: str, *fields: tuple[str, ...]) -> Any:
        self._note(key, "text", default)
        return mqtt.topics.parse(key, default, *fields)


# What the program works out of another key: its default is on the page in words.
IN_WORDS = {"[broker] port": "1883, with TLS 8883"}


def test_mqtt() -> None:
    Recording.asked.clear()
    mqtt._mqtt(Path(), Recording)
    found = rows("mqtt.toml")
    assert set(found) == set(Recording.asked)
    for key, (kind, default) in Recording.asked.items():
        assert found[key][0] == kind, key
        if default not in (None, ""):
            as_choice = isinstance(default, str) and default.startswith("`")
            wanted = IN_WORDS.get(key) or (str(default) if as_choice else shown(default))
            assert found[key][1] == wanted, key


def test_what_a_device_reads() -> None:
    """Keys that Credentials takes out of config.json, and which of them must be there."""
    source = (ROOT / "device_lib/fleetnet_device/credentials.py").read_text(encoding="utf-8")
    keys = set()
    for node in ast.walk(ast.parse(source)):
        taken: ast.expr | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "config.get":
            taken = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "config":
            taken = node.slice
        if isinstance(taken, ast.Constant):
            keys.add(taken.value)
    found = rows("config.json")
    assert set(found) == keys - {"ca", "cert", "key"}
    required = {key for key, cells in found.items() if cells[1] == "required"}
    assert required == {"name", "host", "tls_port", "dtls_port"}


def test_variables() -> None:
    """Every variable that the code asks for by name."""
    asked = {"FLEETNET_<KEY>"}
    for path in SERVER.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r'environ(?:ment)?(?:\.get\(|\[)"(\w+)"', text))
        asked |= set(re.findall(r'envvar="(\w+)"', text))
    asked -= {"FLEETNET_WORKERS", "MICROPYPATH", "PYTHONPATH", "PYTHONUNBUFFERED"}  # set, not read
    assert set(rows("Environment")) == asked
