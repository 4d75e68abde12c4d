"""Names of the fleet in topics of MQTT, and back.

    fill("fleetnet/{device}/{channel}", device="cam-1", channel="a/b")
        -> "fleetnet/cam-1/a%2Fb"

A name is one level of a topic, whatever is in it. What would end the level or mean something to
a broker is written as %XX, the bytes of its UTF-8 in hexadecimal, as URLs have it (RFC 3986
section 2.1): "/", "+", "#", "%" itself, "$" where the name begins with it, and all that MQTT 5.0
section 1.5.4 forbids or advises against (controls, U+0000, halves of surrogate pairs,
noncharacters). Two names never become one topic, and ``unquote`` gives the name back.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from fleetnet_server.errors import ConfigError

# Bytes of a topic's UTF-8: section 1.5.4.
MAX_TOPIC = 65_535

_UNSAFE = re.compile(
    "^\\$|[/+#%\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
    # The last two code points of each further plane are noncharacters as well.
    + "|[" + "".join(chr(plane << 16 | low) for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))
    + "]"
)  # fmt: skip
_FIELD = re.compile(r"\{([^{}]*)\}")


def _quoted(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))


@lru_cache(4096)
def safe(name: str) -> str:
    """Return a name as one level of a topic, see the module."""
    return _UNSAFE.sub(_quoted, name)


def unquote(level: str) -> str:
    """Return the name that ``safe`` made a level of. Raises ValueError: it made none like it."""
    name = unquote_to_bytes(level).decode(errors="surrogatepass")
    if safe(name) != level:
        raise ValueError(f"{level!r} is no name as this bridge writes it")
    return name


def slug(name: str) -> str:
    """Return a name in [a-zA-Z0-9_-], other names in other slugs, for systems that want that."""
    return "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte == 0x2D else f"_{byte:02x}"
        for byte in name.encode(errors="surrogatepass")
    )


class Template(NamedTuple):
    """A topic with fields.

    Attributes:
        text: as it was written. parts: text and fields in turn, text first.
    """

    text: str
    parts: tuple[str, ...]

    def fill(self, **names: str) -> str:
        """Return the topic for these names."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0]
        return "".join(
            safe(names[part]) if index % 2 else part for index, part in enumerate(parts)
        )

    @property
    def filter(self) -> str:
        """The topic filter that all its topics match; each field is a level of its own."""
        return "".join("+" if index % 2 else part for index, part in enumerate(self.parts))

    def match(self, topic: str) -> dict[str, str] | None:
        """Return the names in a topic; None: it is not of this template."""
        pattern = "".join(
            f"(?P<{part}>[^/]*)" if index % 2 else re.escape(part)
            for index, part in enumerate(self.parts)
        )
        found = re.fullmatch(pattern, topic)
        if found is None:
            return None
        try:
            return {key: unquote(value) for key, value in found.groupdict().items()}
        except ValueError:
            return None


def parse(where: str, text: str, needed: Collection[str], known: Collection[str]) -> Template:
    """Read a template.

    Args:
        where: file and key, for the error. needed: fields that it must have, of ``known``.

    Raises:
        ConfigError: an unknown or missing field, or no topic.
    """
    parts = tuple(_FIELD.split(text))
    fields = parts[1::2]
    for field in fields:
        if field not in known:
            names = ", ".join(f"{{{name}}}" for name in known)
            raise ConfigError(f"{where}: {{{field}}} in {text!r} is unknown; there are {names}")
    for field in needed:
        if field not in fields:
            raise ConfigError(f"{where}: {text!r} lacks {{{field}}}: two would share a topic")
    plain = "".join(parts[::2])
    if not text or len(text) > 200 or re.search(r"[{}+#]", plain) or text.startswith("$"):
        raise ConfigError(
            f"{where}: {text!r} is no topic: 1 to 200 characters without + # and $ at the start"
        )
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in plain):
        raise ConfigError(f"{where}: {text!r} holds a control character")
    return Template(text, parts)


def parse_levels(
    where: str, text: str, needed: Collection[str], known: Collection[str]
) -> Template:
    """Read a template that is subscribed to: each field once, and a whole level.

    Raises:
        ConfigError: as ``parse``, and a field that shares its level.
    """
    found = parse(where, text, needed, known)
    levels = text.split("/")
    for field in found.parts[1::2]:
        if levels.count(f"{{{field}}}") != 1:
            raise ConfigError(f"{where}: write {{{field}}} in {text!r} once, between slashes")
    return found


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a topic matches a filter (MQTT 5.0 section 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and not topic_filter.startswith("$"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


def is_topic(topic: str) -> bool:
    """Say whether something can be published to."""
    size = len(topic.encode(errors="replace"))
    return 0 < size <= MAX_TOPIC and not re.search("[+#\x00\ud800-\udfff]", topic)

