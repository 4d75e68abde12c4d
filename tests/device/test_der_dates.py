"""fleetnet.der_dates against certificates that another library made."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fleetnet.der_dates import date_text, validity


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ((1950, 1, 1), (2049, 12, 31)),
        ((2024, 2, 29), (2050, 1, 1)),
        ((2000, 12, 31), (9999, 12, 31)),
    ],
)
def test_dates_of_a_certificate(first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    dates = [datetime.datetime(*each, 23, 59, 58, tzinfo=datetime.UTC) for each in (first, last)]
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7)
        .not_valid_before(dates[0])
        .not_valid_after(dates[1])
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    found = validity(made)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert found == tuple((date - epoch) // datetime.timedelta(milliseconds=1) for date in dates)
    assert [date_text(each) for each in found] == [f"{date:%Y-%m-%d}" for date in dates]
