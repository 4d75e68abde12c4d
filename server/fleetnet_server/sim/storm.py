"""A storm: the server restarts, or every device does, while all are connected."""

import time
from collections import Counter
from typing import NamedTuple

from fleetnet_server.sim.load import Load
from fleetnet_server.sim.server import OwnServer

# restart: SIGTERM, and the server says when to come back; kill: kill -9, and it says nothing;
# power: every device loses power, and the server is not touched.
STORMS = ("restart", "kill", "power")

# The pace of those who come back is the mean of so many seconds: in the first one those enter
# who are kept waiting for a turn, a second's worth of them at once (core/herd.py).
_PACE_S = 5


class Storm:
    """One storm.

    Args:
        kind: one of STORMS. server: the simulator's own; needed but for "power".

    Attributes:
        away_s: from its beginning until the server accepts devices again; None before.
    """

    def __init__(self, kind: str, load: Load, server: OwnServer | None):
        self.kind = kind
        self.away_s: float | None = None
        self._load = load
        self._server = server

    async def strike(self) -> None:
        """Let it happen. Raises ConfigError: the server does not come back."""
        began = time.monotonic()
        if self.kind == "power" or self._server is None:
            self._load.say("power")
            self.away_s = 0.0
            return
        self._load.say("storm")
        if self.kind == "kill":
            await self._server.kill()
        else:
            await self._server.stop()
        await self._server.start()
        self.away_s = time.monotonic() - began


class Return(NamedTuple):
    """How a fleet came back.

    Attributes:
        took_s: from the server's return until the last device had a session.
        limit_s: what the rate that is set allows, plus a tenth.
        pace: most devices a second, the mean of five seconds.
    """

    took_s: float
    limit_s: float | None
    pace: float

    @property
    def is_within(self) -> bool | None:
        """It took no longer than the limit; None without one."""
        return None if self.limit_s is None else self.took_s <= self.limit_s


def judge(
    hit: int, last_ms: float, away_s: float, back_at: Counter[int], rate: float | None
) -> Return:
    """Judge a return.

    Args:
        hit: devices that the storm met. last_ms: from the storm to the last one's session.
        away_s: see Storm. back_at: see Meter. rate: sessions_per_s of the server; None: unknown.
    """
    last = max(back_at, default=0)
    most = max(
        (sum(back_at[second + i] for i in range(_PACE_S)) for second in range(last + 1)), default=0
    )
    limit_s = None if rate is None else 1.1 * hit / rate
    return Return(max(0.0, last_ms / 1000 - away_s), limit_s, most / _PACE_S)
