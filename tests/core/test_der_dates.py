"""fleetnet.der_dates against dates whose unix time is known, on every interpreter.

Against certificates of another library: tests/device/test_der_dates.py.
"""

from fleetnet.der_dates import date_text, validity
from fleetnet.errors import CredentialError

UTC = 0x17
GENERALIZED = 0x18


def value(tag, *parts):
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


def certificate(first, second, version=True):
    parts = [value(0xA0, b"\x02\x01\x02")] if version else []
    parts += [value(0x02, b"\x05"), value(0x30), value(0x30), value(0x30, first, second)]
    return value(0x30, value(0x30, *parts))


def utc(text):
    return value(UTC, text.encode())


def generalized(text):
    return value(GENERALIZED, text.encode())


DATES = (
    (utc("700101000000Z"), 0, "1970-01-01"),
    (utc("500101000000Z"), -631152000, "1950-01-01"),
    (utc("491231235959Z"), 2524607999, "2049-12-31"),
    (utc("000229120000Z"), 951825600, "2000-02-29"),
    (utc("240301000001Z"), 1709251201, "2024-03-01"),
    (utc("231231235960Z"), 1704067200, "2024-01-01"),
    (generalized("20500101000000Z"), 2524608000, "2050-01-01"),
    (generalized("21000301000000Z"), 4107542400, "2100-03-01"),
    (generalized("99991231235959Z"), 253402300799, "9999-12-31"),
)


def test_dates():
    for data, seconds, text in DATES:
        for version in (True, False):
            found = validity(certificate(utc("700101000000Z"), data, version))
            assert found == (0, seconds * 1000), (data, found)
            assert validity(certificate(data, utc("700101000000Z")))[0] == seconds * 1000
        assert date_text(seconds * 1000) == text


def test_every_day_of_two_hundred_years_has_its_text():
    days = {4: 30, 6: 30, 9: 30, 11: 30}
    at = -20 * 365 - 5  # 1950-01-01
    for year in range(1950, 2150):
        for month in range(1, 13):
            leap = 29 if year % 4 == 0 and year != 2100 else 28
            last = leap if month == 2 else days.get(month, 31)
            for day in (1, last):
                wanted = "%04d-%02d-%02d" % (year, month, day)
                assert date_text((at + day - 1) * 86_400_000) == wanted
            at += last


def refused(data):
    try:
        validity(data)
    except CredentialError:
        return True
    return False


def test_what_is_no_date_is_refused():
    good = utc("240301000001Z")
    assert not refused(certificate(good, good))
    for bad in (
        utc("2403010000Z"),  # without seconds
        utc("240301000001+0100"),
        utc("2403010000011"),
        utc("24030100000 Z"),
        utc("-40301000001Z"),
        utc("241301000001Z"),
        utc("240300000001Z"),
        utc("240301240001Z"),
        generalized("240301000001Z"),
        value(0x04, b"240301000001Z"),
        utc(""),
        b"",
    ):
        assert refused(certificate(good, bad)), bad
        assert refused(certificate(bad, good)), bad


def test_no_piece_of_a_certificate_breaks_it():
    whole = certificate(utc("240301000001Z"), utc("250301000001Z"))
    for size in range(len(whole)):
        assert refused(whole[:size])
    for at in range(len(whole)):
        for bit in range(8):
            changed = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
            try:
                validity(changed)
            except CredentialError:
                pass
