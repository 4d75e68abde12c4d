"""What the simulator changes in a device: its patience, and when nobody waits for it."""

import pytest

from fleetnet.errors import DISABLED, OVERLOADED, LinkClosed, Rejected
from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.meter import Meter

BUNDLE = {
    "name": "sim-00001", "host": "127.0.0.1", "tls_port": 1, "dtls_port": 1, "transport": "tls",
    "server_hostname": "localhost", "pins": [], "made_ms": 0, "ca": b"", "cert": b"", "key": b"",
}  # fmt: skip


def device(patient: bool) -> SimDevice:
    return SimDevice(dict(BUNDLE), Meter(), patient=patient)


def test_a_patient_device_comes_when_it_is_asked_to() -> None:
    backoff = device(True).connection._backoff
    assert 20_000 <= backoff.after(0, 20_000) <= 25_000
    assert backoff.after(0, refused=2) > 60_000


def test_an_impatient_one_comes_at_once() -> None:
    backoff = device(False).connection._backoff
    for _ in range(5):
        assert backoff.after(0, 20_000) == backoff.after(0, refused=2) == 500


@pytest.mark.parametrize(
    ("error", "is_unwanted"),
    [
        (None, False),
        (LinkClosed("the server restarts"), False),
        (Rejected("later", OVERLOADED, retry_after_ms=9_000), False),
        (Rejected("never", DISABLED), True),
        (Rejected("by TLS", alert=42), True),
    ],
)
def test_only_who_is_refused_for_good_is_given_up(
    error: Exception | None, is_unwanted: bool
) -> None:
    one = device(True)
    one.last_error = error
    assert one.is_unwanted is is_unwanted
