"""What devices may do: FOLDER/policy.toml.

    unknown = "refuse"                  # a certificate of our CA, a name that is not registered

    [group.sensors]
    channels = ["temp*", "door"]        # readings, raw data and events by these names
    max_rate = 20                       # messages a second
    max_message = 4096                  # bytes of a message of readings, raw data, events or log
    max_blob = 1000000                  # bytes of a blob
    commands = ["blink", "read_*"]
    issuers = ["cli:*", "program"]      # who may give a command

What is left out is not restricted. A device whose group has no section follows [group.default],
where there is one. A misspelt key stops the server: a rule that silently does nothing is worse.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from fleetnet_server.errors import ConfigError
from fleetnet_server.identity.labels import is_group
from fleetnet_server.identity.registry import DEFAULT_GROUP
from fleetnet_server.toml_file import check_keys, read_toml

FILE_NAME = "policy.toml"

REFUSE = "refuse"
QUARANTINE = "quarantine"
ACCEPT = "accept"
_UNKNOWN = (REFUSE, QUARANTINE, ACCEPT)

# Larger numbers are slips of the pen.
_MAX_BYTES = 1 << 40
_MAX_RATE = 1_000_000.0

# Names that were looked up; a device that invents channels fills no memory.
_MAX_KNOWN = 1024


class Names:
    """A set of names, given by patterns (``*``, ``?``, ``[abc]``; case counts).

    Cost of ``in``: a dict lookup for a name that was asked about before.
    """

    __slots__ = ("_known", "patterns")

    def __init__(self, patterns: Iterable[str]):
        self.patterns = tuple(patterns)
        self._known: dict[object, bool] = {}

    def __contains__(self, name: object) -> bool:
        found = self._known.get(name)
        if found is None:
            found = any(fnmatchcase(str(name), pattern) for pattern in self.patterns)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[name] = found
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"Names({list(self.patterns)})"


class Rules(NamedTuple):
    """What the devices of a group may do; None: anything.

    Attributes:
        max_rate: messages a second. max_message, max_blob: bytes.
        issuers: who may give commands to devices of this group.
    """

    channels: Names | None = None
    max_rate: float | None = None
    max_message: int | None = None
    max_blob: int | None = None
    commands: Names | None = None
    issuers: Names | None = None

    def objection(self, command: str, issuer: str) -> str:
        """Say why ``issuer`` may not give ``command``; "": it may."""
        if self.commands is not None and command not in self.commands:
            return f"its group has no command {command!r}"
        if self.issuers is not None and issuer not in self.issuers:
            return f"{issuer or 'nobody'} may not give commands to its group"
        return ""


class Policy(NamedTuple):
    """The whole file; an empty or missing one restricts nothing and refuses strangers."""

    unknown: str = REFUSE
    groups: Mapping[str, Rules] = {}

    def rules(self, group: str) -> Rules | None:
        """Return the rules of a group's devices; None: there are none."""
        found = self.groups.get(group, self.groups.get(DEFAULT_GROUP))
        return None if found == Rules() else found


def load_policy(folder: str | Path) -> Policy:
    """Read FOLDER/policy.toml.

    Raises:
        ConfigError: not TOML, an unknown key (with the nearest known one), or a wrong value;
            names file and key.
    """
    path = Path(folder) / FILE_NAME
    values = read_toml(path)
    if values is None:
        return Policy()
    check_keys(str(path), values, ("unknown", "group"))
    unknown = values.get("unknown", REFUSE)
    if unknown not in _UNKNOWN:
        raise ConfigError(f"{path}: unknown = {unknown!r}: write one of {', '.join(_UNKNOWN)}")
    sections = values.get("group", {})
    if not isinstance(sections, dict):
        raise ConfigError(f"{path}: group = {sections!r}: write sections, [group.NAME]")
    return Policy(unknown, {name: _rules(path, name, sections[name]) for name in sections})


class PolicyFile:
    """FOLDER/policy.toml of a running server, read again when it changes.

    A file that is broken or gone changes nothing: the rules that were in force stay. To lift
    them write an empty file.

    Attributes:
        policy: what is in force.
        problem: what is wrong with the file now; "": nothing.

    Raises:
        ConfigError: as load_policy.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._path = folder / FILE_NAME
        self._seen = self._fresh = self._stat()
        self.policy = load_policy(folder)
        self.problem = ""

    def refresh(self) -> bool:
        """Look for changes, some system calls long; True: ``policy`` is another one now."""
        fresh = self._stat()
        # Twice the same: an editor may have emptied the file and be about to write it.
        if fresh == self._seen or fresh != self._fresh:
            self._fresh = fresh
            return False
        self._seen = fresh
        if fresh is None:
            self.problem = f"{self._path} is gone: put it back, or restart without a policy"
            return False
        try:
            policy = load_policy(self._folder)
        except ConfigError as error:
            self.problem = str(error)
            return False
        self.problem = ""
        is_other = policy != self.policy
        self.policy = policy
        return is_other

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _rules(path: Path, group: str, section: Any) -> Rules:
    where = f"{path}: [group.{group}]"
    if not is_group(group):
        raise ConfigError(f"{where}: 1 to 32 of a-z 0-9 . _ - name a group")
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: group.{group} = {section!r}: write a section, [group.{group}]")
    check_keys(where, section, Rules._fields)
    return Rules(
        channels=_names(where, "channels", section),
        max_rate=_number(where, "max_rate", section, _MAX_RATE),
        max_message=_bytes(where, "max_message", section),
        max_blob=_bytes(where, "max_blob", section),
        commands=_names(where, "commands", section),
        issuers=_names(where, "issuers", section),
    )


def _names(where: str, key: str, section: Mapping[str, Any]) -> Names | None:
    if key not in section:
        return None
    value = section[key]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f'{where}: {key} = {value!r}: write a list of names, as in ["temp*"]')
    return Names(value)


def _number(where: str, key: str, section: Mapping[str, Any], most: float) -> float | None:
    value = section.get(key)
    if key not in section:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{where}: {key} = {value!r}: write a number above 0, at most {most:g}")
    return float(value)


def _bytes(where: str, key: str, section: Mapping[str, Any]) -> int | None:
    value = section.get(key)
    if key not in section:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_BYTES:
        raise ConfigError(f"{where}: {key} = {value!r}: write a whole number of bytes")
    return value
