"""One section of mqtt.toml, key by key: what is taken is checked, what is left over is an error."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleetnet_server.bridge import topics
from fleetnet_server.errors import ConfigError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES = {"K": 1 << 10, "M": 1 << 20}
# Ten years; an expiry has to fit 32 bits of seconds.
_MAX_AGE_S = 3650 * 86_400


class Section:
    """The values of one section; ``finish`` once all known keys were taken.

    Raises, everywhere:
        ConfigError: names file, section and key.
    """

    def __init__(self, path: Path, name: str, values: Any):
        self._path, self._name = path, name
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: {name} = {values!r}: write a section, [{name}]")
        self._values = values
        self._known: set[str] = set()

    def place(self, key: str) -> str:
        """Return file, section and key, for an error."""
        return f"{self._path}: [{self._name}] {key}"

    def error(self, key: str, text: str) -> ConfigError:
        """Return an error about a key."""
        return ConfigError(f"{self.place(key)}: {text}")

    def finish(self) -> None:
        """Refuse keys that nobody took."""
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(key.lower(), self._known, n=1, cutoff=0.5)
                known = ", ".join(sorted(self._known))
                hint = f"did you mean {near[0]!r}?" if near else f"there are {known}"
                raise ConfigError(f"{self._path}: [{self._name}] unknown key {key!r}; {hint}")

    def _take(self, key: str, default: Any) -> Any:
        self._known.add(key)
        return self._values.get(key, default)

    def section(self, key: str) -> "Section | None":
        """Return a section below this one; None: it is not there."""
        values = self._take(key, None)
        return None if values is None else Section(self._path, f"{self._name}.{key}", values)

    def sections(self, key: str) -> "list[Section]":
        """Return the sections of a list, [[name.key]]."""
        values = self._take(key, [])
        if not isinstance(values, list):
            raise self.error(key, f"write [[{self._name}.{key}]], with its keys below")
        return [
            Section(self._path, f"{self._name}.{key} {number}", one)
            for number, one in enumerate(values, 1)
        ]

    def text(self, key: str, default: str | None = None, most: int = 1000) -> str:
        """Take text; without a default it must be there."""
        value = self._take(key, default)
        if value is None:
            raise self.error(key, "is missing")
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise self.error(key, f"{value!r} is no text of up to {most} characters")
        if not value and default is None:
            raise self.error(key, "is empty")
        return value

    def choice(self, key: str, default: str, known: tuple[str, ...]) -> str:
        """Take one of some words."""
        value = self._take(key, default)
        if value not in known:
            raise self.error(key, f"{value!r}: write one of {', '.join(known)}")
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        """Take true or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r}: write true or false")
        return value

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        """Take a whole number."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, f"{value!r}: write a whole number, {least} to {most}")
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        """Take a number."""
        value = self._take(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise self.error(key, f"{value!r}: write a number, {least:g} to {most:g}")
        return float(value)

    def age(self, key: str, default: float | None) -> float | None:
        """Take an age like 30s, 45m, 12h, 7d; return seconds."""
        value = self._take(key, None)
        if value is None:
            return default
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
        if not 0 < seconds <= _MAX_AGE_S:
            raise self.error(key, f"{value!r} is no age: write 30s, 45m, 12h or 7d, up to 3650d")
        return float(seconds)

    def size(self, key: str, default: int) -> int:
        """Take a size like 64K or 2M; return bytes."""
        value = self._take(key, None)
        if value is None:
            return default
        found = re.fullmatch(r"(\d{1,4})([KM])", str(value))
        size = int(found[1]) * _SIZES[found[2]] if found else 0
        # 268,435,455 B is the largest packet of MQTT; 64 MiB the largest blob by default.
        if not 0 < size <= 64 << 20:
            raise self.error(key, f"{value!r} is no size: write 64K or 2M, up to 64M")
        return size

    def names(self, key: str, default: tuple[str, ...] = ("*",)) -> tuple[str, ...]:
        """Take a list of patterns."""
        value = self._take(key, list(default))
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.error(key, f'{value!r}: write a list of names, as in ["temp*"]')
        return tuple(value)

    def template(
        self, key: str, default: str, needed: tuple[str, ...], known: tuple[str, ...]
    ) -> topics.Template:
        """Take a topic with fields."""
        return topics.parse(self.place(key), self.text(key, default), needed, known)
