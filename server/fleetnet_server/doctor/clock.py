"""Is this computer's clock set? Everything about dates rests on it."""

import datetime
import time

from cryptography import x509

from fleetnet_server.doctor.findings import BAD, OK, Finding

_REMEDY = "set it: `timedatectl set-ntp true`, or `date -u -s 'YYYY-MM-DD hh:mm:ss'`"
# No certificate of this program is older. Boards and PCs without a battery begin at 1970 or 2000.
_EARLIEST = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
# A certificate is made a day back; more than that before its begin is no difference of clocks.
_DAY = datetime.timedelta(days=1)


def check(made: datetime.datetime | None = None) -> Finding:
    """Compare the clock with what is known to be past.

    Args:
        made: when the bundle or the CA was made, by the clock that made it.
    """
    now = datetime.datetime.now(datetime.UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now < _EARLIEST:
        text = f"this computer's clock was never set: it says {text}"
        return Finding("clock", BAD, text, _REMEDY)
    if made is not None and now < made - _DAY:
        text = f"this computer's clock says {text}, but what it looks at was made {made:%Y-%m-%d}"
        return Finding("clock", BAD, text, _REMEDY)
    return Finding("clock", OK, text)


def made_at(certificates: list[x509.Certificate]) -> datetime.datetime | None:
    """Return the newest begin of validity that is no future: of a CA, the time it was made."""
    return max((one.not_valid_before_utc for one in certificates), default=None)


def now_ms() -> int:
    """Return this computer's unix ms."""
    return time.time_ns() // 1_000_000
