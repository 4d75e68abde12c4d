"""The validity of a certificate as unix times; for programs that explain, never for trust.

mbedTLS and OpenSSL decide whether a certificate is valid. This only says from when to when.

Sources: RFC 5280 section 4.1.2.5 (Validity, UTCTime, GeneralizedTime), X.690 section 11.7.
"""

from fleetnet.der import _enter, _skip, _value
from fleetnet.errors import CredentialError

_SEQUENCE = 0x30
_UTC_TIME = 0x17  # YYMMDDHHMMSSZ, 1950 to 2049
_GENERALIZED_TIME = 0x18  # YYYYMMDDHHMMSSZ

_MONTH_STARTS = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


def validity(cert: "bytes | memoryview") -> "tuple[int, int]":
    """Return (not before, not after) of a certificate (DER) in unix ms.

    Raises:
        CredentialError: it is no certificate, or a date in it is none.
    """
    at, end = _enter(cert, 0, len(cert), _SEQUENCE)
    at, end = _enter(cert, at, end, _SEQUENCE)
    if _value(cert, at, end)[0] == 0xA0:  # version; absent in version 1
        at = _skip(cert, at, end, 1)
    at = _skip(cert, at, end, 3)  # serial, signature algorithm, issuer
    at, end = _enter(cert, at, end, _SEQUENCE)
    before, at = _time(cert, at, end)
    return before, _time(cert, at, end)[0]


def _time(cert: "bytes | memoryview", at: int, end: int) -> "tuple[int, int]":
    """Return (unix ms, where the next value begins)."""
    tag, start, stop = _value(cert, at, end)
    digits = bytes(cert[start : stop - 1])
    size = {_UTC_TIME: 12, _GENERALIZED_TIME: 14}.get(tag)
    # int() alone would take signs, spaces and underscores.
    if (
        len(digits) != size
        or cert[stop - 1] != 0x5A  # Z
        or any([not 0x30 <= each <= 0x39 for each in digits])
    ):
        raise CredentialError("a date of the certificate is no UTC time of RFC 5280")
    year = int(digits[:-10])
    if tag == _UTC_TIME:
        year += 1900 if year >= 50 else 2000
    month, day, hour, minute, second = [int(digits[i : i + 2]) for i in range(size - 10, size, 2)]
    if not (0 < month <= 12 and 0 < day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise CredentialError("a date of the certificate is no date")
    days = _days_before(year) + _MONTH_STARTS[month - 1] + day - 1
    if month > 2 and _is_leap(year):
        days += 1
    seconds = ((days - _days_before(1970)) * 24 + hour) * 3600 + minute * 60 + second
    return seconds * 1000, stop


def _days_before(year: int) -> int:
    """Return the days from the year 1 to the beginning of ``year``."""
    year -= 1
    return year * 365 + year // 4 - year // 100 + year // 400


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def date_text(unix_ms: int) -> str:
    """Return YYYY-MM-DD (UTC), for any year: a board's gmtime may end in 2037."""
    days = unix_ms // 86_400_000 + _days_before(1970)
    year = days * 400 // 146_097 + 1
    while _days_before(year) > days:
        year -= 1
    while _days_before(year + 1) <= days:
        year += 1
    days -= _days_before(year)
    month = 12
    while True:
        start = _MONTH_STARTS[month - 1] + (1 if month > 2 and _is_leap(year) else 0)
        if days >= start:
            return "%04d-%02d-%02d" % (year, month, days - start + 1)
        month -= 1
