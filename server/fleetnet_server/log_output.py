"""The log of a server: one line a record, in one form, whoever logged it.

    2026-03-01T09:30:00.125Z warning  fleetnet.sessions  device refused device=cam-1 why=disabled
    {"timestamp": "2026-03-01T09:30:00.125Z", "level": "warning", "logger": "fleetnet.web", ...}

structlog's loggers and those of the standard library (ours, uvicorn's, asyncio's, warnings) go
through the same handler. What a device wrote can end no line and moves no cursor; a token of the
HTTP API, or a value whose key sounds like a secret, is replaced.
"""

import json
import logging
import os
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from fleetnet_server.redaction import HIDDEN, shown

# store/tokens.py; not imported, so that a log needs no store.
_TOKEN = re.compile(r"fnt_[A-Z2-7]{32}")

_COLORS = {"critical": 31, "error": 31, "warning": 33, "info": 32, "debug": 2}

# A word that can be read in a line without quotation marks.
_WORD = re.compile(r"[^\s\"'=]+")


def configure_logging(
    as_json: bool, quiet: bool, stream: TextIO | None = None, process: str = ""
) -> None:
    """Send every record of this process to a stream; None: standard error.

    Args:
        as_json: one JSON object a line. quiet: warnings and what is worse.
        process: which of a server's processes this is, said in every line; "": the only one.
    """
    out = sys.stderr if stream is None else stream
    level = logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler(out)
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    is_colored = out.isatty() and not is_plain
    handler.setFormatter(make_formatter(as_json, is_colored, process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # It says at each end of a server that it ends; what is wrong stays.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_common(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def make_formatter(
    as_json: bool, is_colored: bool = False, process: str = ""
) -> logging.Formatter:
    """Return what turns a record of either library into its line."""
    render = _as_json if as_json else _Plain(is_colored)

    def name(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**event, "process": process} if process else event

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_common(),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            name,
            _hide,
            structlog.processors.format_exc_info,
            render,
        ],
    )


def _common() -> list[Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _hide(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {key: shown(key, value) for key, value in event.items()}


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """ASCII: a terminal finds nothing in it to obey."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event")}
    return _TOKEN.sub(HIDDEN, json.dumps({**first, **event}, default=repr))


class _Plain:
    """Lines for people; a traceback follows its line."""

    def __init__(self, is_colored: bool):
        self._is_colored = is_colored

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Be a structlog processor."""
        trace = event.pop("exception", "")
        at, level, name = event.pop("timestamp"), event.pop("level"), event.pop("logger")
        text = _one_line(str(event.pop("event")))
        rest = "".join(f" {key}={_value(value)}" for key, value in event.items())
        word = f"{level:8}"
        if self._is_colored:
            word = f"\x1b[{_COLORS.get(level, 0)}m{word}\x1b[0m"
        lines = [f"{at} {word} {name}  {text}{rest}"]
        lines += [f"    {_one_line(line)}" for line in trace.splitlines()]
        return _TOKEN.sub(HIDDEN, "\n".join(lines))


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, str) and _WORD.fullmatch(text) is None:
        # As in JSON, so that it is clear where it ends.
        text = json.dumps(text, ensure_ascii=False)
    return _one_line(text)


def _one_line(text: str) -> str:
    """Escape what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
