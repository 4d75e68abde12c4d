"""Durations on the command line: 500ms, 10s, 5m, 1h, 2d."""

import re

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_S = 30 * 86400.0


class Duration(click.ParamType[float]):
    """A number and a unit; converts to seconds, 30 days at most."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration: write 10s, 5m, 1h or 2d", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2]]
        if not 0 < seconds <= _MOST_S:
            self.fail(f"{value} is not between 1ms and 30d", param, ctx)
        return seconds
