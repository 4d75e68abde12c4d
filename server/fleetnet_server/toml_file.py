"""Files of rules that people write: FOLDER/policy.toml, FOLDER/retention.toml.

A misspelt key is an error: a rule that silently does nothing is worse. Every layer may import
this module.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleetnet_server.errors import ConfigError

# Thousands of groups and rules; a larger file is something else.
_MAX_FILE = 1 << 20


def read_toml(path: Path) -> dict[str, Any] | None:
    """Return what the file says; None: there is none.

    Raises:
        ConfigError: it cannot be read, is not TOML, or too large; names the file.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
        if len(text) > _MAX_FILE:
            raise ConfigError(f"{path} is larger than 1 MiB: is it the right file?")
        return tomllib.loads(text.decode())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise ConfigError for a key that is not known, with the nearest one that is."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")
