"""How long readings and messages are kept: FOLDER/retention.toml.

    [[rule]]                    # the first one that fits a series counts
    group = "sensors"           # of the device; a pattern; left out: any
    channel = "temp*"           # a pattern; left out: any
    raw = "30d"                 # every reading
    minutes = "365d"            # then lowest, highest, mean and count of each minute
    hours = "1825d"             # then of each hour; after that nothing

    [messages]
    keep = "90d"                # events, log lines, raw data, bodies that could not be read

    [blobs]
    all = "200G"                # of all devices together; the oldest go first
    [[blobs.rule]]              # the first one that fits a device's group counts
    group = "cam*"              # left out: any
    device = "2G"               # of each device
    keep = "30d"                # since it was received

Ages count from now back to the time of a reading. What is left out of a rule is not kept as
such: without ``minutes`` readings go from raw to hours, without both they are deleted. A series
without a rule is kept for ever, and so is everything without the file. A misspelt key is an error.
K, M, G and T are powers of 1024.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.errors import ConfigError
from fleetnet_server.toml_file import check_keys, read_toml

FILE_NAME = "retention.toml"

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
# A century: an age is taken from a date, and both have to stay integers of SQLite.
_MAX_MS = 36_500 * 86_400_000
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_BLOB_RULE = ("group", "device", "keep")
_RULE = ("group", "channel", "raw", "minutes", "hours")


class Rule(NamedTuple):
    """Ages in ms; None: not kept as that."""

    raw_ms: int
    minutes_ms: int | None = None
    hours_ms: int | None = None
    group: str = "*"
    channel: str = "*"


class BlobRule(NamedTuple):
    """Bytes that a device's blobs may have together, and their age in ms; None: no end."""

    device_bytes: int | None = None
    keep_ms: int | None = None
    group: str = "*"


class Lifetimes(NamedTuple):
    """The whole file. ``blobs_bytes``: of all blobs together, each content counted once."""

    rules: tuple[Rule, ...] = ()
    messages_ms: int | None = None
    blob_rules: tuple[BlobRule, ...] = ()
    blobs_bytes: int | None = None

    def rule(self, group: str, channel: str) -> Rule | None:
        """Return the first rule that fits a series; None: it is kept for ever."""
        for rule in self.rules:
            if fnmatchcase(group, rule.group) and fnmatchcase(channel, rule.channel):
                return rule
        return None

    def blob_rule(self, group: str) -> BlobRule:
        """Return the first rule for blobs that fits a group; one without ends when none does."""
        fitting = (rule for rule in self.blob_rules if fnmatchcase(group, rule.group))
        return next(fitting, BlobRule())

    def most_blob_bytes(self, group: str) -> int | None:
        """Return how large one blob can be, for the quotas; None: they do not say."""
        found = (self.blob_rule(group).device_bytes, self.blobs_bytes)
        return min((size for size in found if size is not None), default=None)


def load_lifetimes(folder: str | Path) -> Lifetimes:
    """Read FOLDER/retention.toml; without the file nothing ends.

    Raises:
        ConfigError: not TOML, an unknown key, or a wrong value; names file and key.
    """
    path = Path(folder) / FILE_NAME
    document = read_toml(path)
    if document is None:
        return Lifetimes()
    return _lifetimes(path, document)


def _lifetimes(path: Path, document: Mapping[str, Any]) -> Lifetimes:
    check_keys(str(path), document, ("rule", "messages", "blobs"))
    rules = document.get("rule", [])
    messages, blobs = document.get("messages", {}), document.get("blobs", {})
    if not (isinstance(rules, list) and isinstance(messages, dict) and isinstance(blobs, dict)):
        raise ConfigError(f"{path}: write [[rule]], [messages] and [blobs]")
    check_keys(f"{path}: messages", messages, ("keep",))
    check_keys(f"{path}: blobs", blobs, ("all", "rule"))
    blob_rules = blobs.get("rule", [])
    if not isinstance(blob_rules, list):
        raise ConfigError(f"{path}: write [[blobs.rule]], with its keys below")
    return Lifetimes(
        tuple(_rule(f"{path}: rule {number}", rule) for number, rule in enumerate(rules, 1)),
        _age(f"{path}: messages", messages, "keep"),
        tuple(
            _blob_rule(f"{path}: blobs.rule {number}", rule)
            for number, rule in enumerate(blob_rules, 1)
        ),
        _size(f"{path}: blobs", blobs, "all"),
    )


def _blob_rule(where: str, rule: Any) -> BlobRule:
    if not isinstance(rule, dict):
        raise ConfigError(f"{where}: write [[blobs.rule]], with its keys below")
    check_keys(where, rule, _BLOB_RULE)
    if not isinstance(rule.get("group", "*"), str):
        raise ConfigError(f"{where}: group is a pattern like \"cam*\"")
    size, age = _size(where, rule, "device"), _age(where, rule, "keep")
    if size is None and age is None:
        raise ConfigError(f"{where}: say device = \"2G\" or keep = \"30d\", or both")
    return BlobRule(size, age, rule.get("group", "*"))


def _rule(where: str, rule: Any) -> Rule:
    if not isinstance(rule, dict):
        raise ConfigError(f"{where}: write [[rule]], with its keys below")
    check_keys(where, rule, _RULE)
    for key in ("group", "channel"):
        if not isinstance(rule.get(key, "*"), str):
            raise ConfigError(f"{where}: {key} is a pattern like \"temp*\"")
    raw = _age(where, rule, "raw")
    if raw is None:
        raise ConfigError(f"{where}: raw is missing; a rule says how long readings are kept")
    minutes, hours = _age(where, rule, "minutes"), _age(where, rule, "hours")
    ages = [age for age in (raw, minutes, hours) if age is not None]
    if ages != sorted(ages):
        raise ConfigError(f"{where}: raw, minutes and hours are ages, each beyond the last")
    return Rule(raw, minutes, hours, rule.get("group", "*"), rule.get("channel", "*"))


def _age(where: str, values: Mapping[str, Any], key: str) -> int | None:
    if key not in values:
        return None
    found = re.fullmatch(r"(\d{1,9})(m|h|d)", str(values[key]))
    age = int(found[1]) * _UNITS_MS[found[2]] if found else 0
    if not 0 < age <= _MAX_MS:
        raise ConfigError(
            f"{where}: {key} = {values[key]!r} is no age: write 45m, 12h or 30d, up to 36500d"
        )
    return age


def _size(where: str, values: Mapping[str, Any], key: str) -> int | None:
    if key not in values:
        return None
    found = re.fullmatch(r"(\d{1,6})([KMGT])", str(values[key]))
    if found is None or not int(found[1]):
        raise ConfigError(f"{where}: {key} = {values[key]!r} is no size: write 500M or 2G")
    return int(found[1]) * _SIZES[found[2]]
