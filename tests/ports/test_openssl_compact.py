"""Compact sessions under loss, attack and misuse. The client is OpenSSL, or knows the keys."""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtls_world import HERE, Client, World
from fleetnet.errors import LinkClosed, Rejected
from fleetnet.ports import openssl_compact
from fleetnet.ports.openssl_compact import MOST_RECORDS, REPEAT_PAUSE_S, KeptAeads
from fleetnet.ports.openssl_compact_keys import derive
from fleetnet.ports.openssl_dtls_wire import ALERT, APPLICATION, HANDSHAKE, sealed, split
from pki import Pki
from ports.compact_client import GOODBYE, Insider, kinds, nonces, session_of

CHANGE_CIPHER_SPEC = 20
FINISHED = b"\x14\0\0\x0c\0\x06\0\0\0\0\0\x0c" + bytes(12)
HELLO = b"\x01\0\0\x28\0\x07\0\0\0\0\0\x28" + bytes(40)


@pytest.fixture
def world(pki: Pki) -> World:
    return World(pki)


def opened(world: World) -> tuple[Client, Insider]:
    client = world.client()
    return client, Insider(client.connect())


# -- the server's last flight ------------------------------------------------------------------


def lose_last_flight(world: World) -> tuple[Client, list[bytes]]:
    """Run a handshake whose last flight is lost; return what it was."""
    client = world.client()
    lost: list[bytes] = []

    def is_lost(from_client: bool, _number: int) -> bool:
        if from_client or HERE not in world.acceptor.associations:
            return False
        lost.append(world.sent[-1][0])
        return True

    client.lose = is_lost
    client.go()
    assert HERE in world.acceptor.associations and not client.ssl.is_established
    return client, lost


def repeat(client: Client) -> list[bytes]:
    """Return the datagrams with which OpenSSL's client repeats its flight."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        client.ssl.handle_timeout()
        if datagrams := client.ssl.datagrams():
            return datagrams
        time.sleep(0.02)
    raise AssertionError("the client repeats nothing")


def test_a_lost_last_flight_is_sent_again_as_the_very_same_bytes(world: World) -> None:
    client, lost = lose_last_flight(world)
    client.lose = lambda _side, _n: False
    world.now += 1
    again = [answer for datagram in repeat(client) for answer in world.give(datagram)]
    assert again == lost and len(again) == 1
    assert kinds(again[0]) == [CHANGE_CIPHER_SPEC, HANDSHAKE]
    client.take(again[0])
    assert client.ssl.is_established
    client.say(b"x")
    assert world.data == [(HERE, b"x")]
    world.acceptor.send(world.acceptor.associations[HERE], b"y")
    client.ssl.feed(world.sent[-1][0])
    assert client.ssl.read() == b"y"
    assert all(len(records) == 1 for records in nonces(world).values())


def test_of_two_flights_in_one_answer_the_last_alone_is_kept(world: World) -> None:
    """The client's flight comes when OpenSSL's timer has run out: it writes the old one again."""
    client = world.client()
    for datagram in world.give(client.hello_with_cookie()):
        client.take(datagram)
    flight = client.ssl.output()
    time.sleep(1.1)  # OpenSSL's timer is on the real clock
    answer = b"".join(world.give(flight))
    association = world.acceptor.associations[HERE]
    session = session_of(association)
    assert len(answer) > 1000 > 100 > len(session._flight)
    client.take(answer)
    assert client.ssl.is_established
    insider = Insider(association)
    world.now += REPEAT_PAUSE_S
    assert world.give(insider.seal(FINISHED, HANDSHAKE)) == [session._flight]


def test_a_finished_is_answered_however_late_but_not_often(world: World) -> None:
    _client, insider = opened(world)
    [flight] = [data for data, _ in world.sent if sealed(data)]  # once, so far
    answers = []
    for step in (REPEAT_PAUSE_S, REPEAT_PAUSE_S / 2, REPEAT_PAUSE_S / 2, 0.01, 3600.0):
        world.now += step
        answers.append(world.give(insider.seal(FINISHED, HANDSHAKE)))
    assert answers == [[flight], [], [flight], [], [flight]]
    assert not world.data and not world.lost


def test_only_an_authentic_finished_is_answered(world: World) -> None:
    _client, insider = opened(world)
    true = insider.seal(FINISHED, HANDSHAKE)
    world.now += 1
    for at in range(13, len(true)):
        damaged = bytearray(true)
        damaged[at] ^= 0x10
        assert world.give(bytes(damaged)) == []
    plain = b"\x16\xfe\xfd\0\0\0\0\0\0\0\x09\0\x18" + FINISHED
    assert world.give(plain) == []
    assert len(world.give(true)) == 1
    world.now += 1
    assert world.give(true) == []  # a replay
    world.now += 1
    for other in (b"", b"\x0b" + bytes(30), b"\x10" + bytes(30), b"\xff"):
        assert world.give(insider.seal(other, HANDSHAKE)) == []


# -- data around the handshake's end ------------------------------------------------------------


def up_to_finished(world: World) -> tuple[Client, Insider, bytes]:
    """Run a handshake up to the client's last flight, which it returns."""
    client = world.client()
    for datagram in world.give(client.hello_with_cookie()):
        client.take(datagram)
    flight = client.ssl.output()
    keys = derive(client.ssl.pointer, client.ssl.cipher()[0])
    assert keys is not None
    insider = Insider.__new__(Insider)
    insider.keys, insider.number = keys, 100
    return client, insider, flight


def test_data_in_the_datagram_of_finished(world: World) -> None:
    """A client that does not wait for the server's Finished (RFC 7918); OpenSSL's cannot."""
    _client, insider, flight = up_to_finished(world)
    records = list(split(flight))
    data = [insider.seal(b"early %d" % number, number=number) for number in (1, 2, 3)]
    # One overtakes the handshake's end; one comes in its datagram, and is there twice.
    world.give(data[1])
    world.give(b"".join(records[:-1]))
    world.give(records[-1] + data[0] + data[0])
    assert [text for _, text in world.data] == [b"early 2", b"early 1"]
    world.give(data[0])
    world.give(data[1])
    world.give(data[2])
    assert [text for _, text in world.data] == [b"early 2", b"early 1", b"early 3"]
    assert world.acceptor.kept.replayed == 3


def test_what_is_kept_of_early_data_is_bounded(world: World) -> None:
    _client, insider, flight = up_to_finished(world)
    for number in range(1, 40):
        world.give(insider.seal(b"%d" % number, number=number))
    assert len(world.acceptor.half_open[HERE].early) <= 4
    world.give(flight)
    assert len(world.data) == 3 and HERE in world.acceptor.associations
    world.give(insider.seal(b"on", number=50))
    assert world.data[-1] == (HERE, b"on")


def test_nothing_of_the_handshake_is_left(world: World) -> None:
    """Its timer is still in the queue, and holds it; not what is large or secret in it."""
    _client, insider, flight = up_to_finished(world)
    handshake = world.acceptor.half_open[HERE]
    world.give(flight)
    assert handshake.ssl.pointer is None and handshake.early == []
    world.give(insider.seal(b"x"))
    assert world.data == [(HERE, b"x")]


# -- records -----------------------------------------------------------------------------------


def test_the_window_has_sixty_four_places(world: World) -> None:
    _, insider = opened(world)
    world.give(insider.seal(b"top", number=1000))
    for number in (1000, 999, 937, 936, 937, 999, 1001, 1000, 937):
        world.give(insider.seal(b"%d" % number, number=number))
    assert [text for _, text in world.data] == [b"top", b"999", b"937", b"1001"]
    world.give(insider.seal(b"far", number=5000))
    for number in (4937, 4936, 1002, 5000, 4999):
        world.give(insider.seal(b"%d" % number, number=number))
    assert [text for _, text in world.data][4:] == [b"far", b"4937", b"4999"]
    assert world.acceptor.kept.replayed == 6 + 3


def test_the_window_agrees_with_a_plain_set(world: World) -> None:
    """Every number once, unless it is 64 or more behind; in a random walk."""
    _, insider = opened(world)
    chance = random.Random(4)
    seen: set[int] = set()
    top = 200
    for _ in range(3000):
        number = max(
            1, top + chance.choice((1, 1, 2, 70, -1, -3, -63, -64, 0, chance.randrange(-90, 90)))
        )
        is_new = number > top - 64 and number not in seen
        before = len(world.data)
        world.give(insider.seal(b"x", number=number))
        assert len(world.data) - before == is_new, (number, top)
        if is_new:
            seen.add(number)
            top = max(top, number)
        assert session_of(world.acceptor.associations[HERE])._seen < 1 << 64


def test_a_forged_record_does_not_move_the_window(world: World) -> None:
    client, insider = opened(world)
    forged = bytearray(insider.seal(b"x", number=(1 << 48) - 1))
    forged[-1] ^= 1
    world.give(bytes(forged))
    client.say(b"still")
    assert world.data == [(HERE, b"still")] and world.acceptor.kept.forged == 1


@pytest.mark.parametrize("epoch", [0, 2, 3, 255, 0xFFFF])
def test_other_epochs_are_dropped(world: World, epoch: int) -> None:
    client, insider = opened(world)
    for kind in (APPLICATION, ALERT, HANDSHAKE, CHANGE_CIPHER_SPEC):
        assert world.give(insider.seal(b"\x02\x28", kind, epoch=epoch)) == []
    client.say(b"x")
    assert world.data == [(HERE, b"x")] and not world.lost


@pytest.mark.parametrize("version", [b"\xfe\xff", b"\xfe\xfc", b"\x03\x03", b"\0\0"])
def test_other_versions_are_dropped(world: World, version: bytes) -> None:
    _client, insider = opened(world)
    assert world.give(insider.seal(b"x", version=version)) == []
    assert world.data == [] and world.acceptor.kept.forged == 1


def test_empty_and_large_records(world: World) -> None:
    _, insider = opened(world)
    # No text is no data, and above all no close_notify.
    assert world.give(insider.seal(b"")) == [] and not world.data
    world.give(insider.seal(b"") + insider.seal(b"behind it"))
    assert world.data == [(HERE, b"behind it")]
    world.give(insider.seal(bytes(1 << 14)))
    assert world.data[-1] == (HERE, bytes(1 << 14))
    world.give(insider.seal(bytes((1 << 14) + 1)))
    assert len(world.data) == 2
    for size in (0, 1, 23):
        world.give(b"\x17\xfe\xfd\0\x01" + bytes(6) + size.to_bytes(2, "big") + bytes(size))
    assert len(world.data) == 2 and world.acceptor.kept.forged == 3


def test_lengths_that_lie(world: World) -> None:
    _client, insider = opened(world)
    record = insider.seal(b"text")
    for length in (0, 1, len(record) - 14, len(record) - 12, 0xFFFF):
        lying = record[:11] + length.to_bytes(2, "big") + record[13:]
        world.give(lying)
        world.give(lying[:-1])
    for end in range(len(record)):
        world.give(record[:end])
    assert not world.data and not world.lost
    world.give(record + b"\x17\xfe")  # a piece behind it is left out
    assert world.data == [(HERE, b"text")]


def test_sealing(world: World) -> None:
    client, insider = opened(world)
    association = world.acceptor.associations[HERE]
    before = len(world.sent)
    world.acceptor.send(association, b"")
    assert len(world.sent) == before
    for payload in (bytearray(b"array"), memoryview(b"view"), bytes(1 << 14)):
        world.acceptor.send(association, payload)  # type: ignore[arg-type]
        client.ssl.feed(world.sent[-1][0])
        assert client.ssl.read() == bytes(payload)
    # Eight numbers are 32 bytes: a length that is wrong in the header would not open.
    world.acceptor.send(association, memoryview(bytes(32)).cast("I"))  # type: ignore[arg-type]
    client.ssl.feed(world.sent[-1][0])
    assert client.ssl.read() == bytes(32)
    with pytest.raises(ValueError, match="limit 16384"):
        world.acceptor.send(association, bytes((1 << 14) + 1))
    numbers = [insider.read(data)[1] for data, _ in world.sent[before:]]
    assert numbers == [1, 2, 3, 4]  # OpenSSL used 0 for its Finished
    assert all(len(records) == 1 for records in nonces(world).values())


def test_threads_never_share_a_number(world: World) -> None:
    """A nonce that is used twice would give away the key that authenticates (RFC 5288)."""
    opened(world)
    session = session_of(world.acceptor.associations[HERE])
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            sealed_records = list(pool.map(lambda _: session.seal(b"x"), range(4000)))
    finally:
        sys.setswitchinterval(before)
    assert len({record[13:21] for record in sealed_records}) == 4000


# -- alerts, renegotiation, the end -----------------------------------------------------------


def test_warnings_are_ignored_and_fatal_alerts_end_it(world: World) -> None:
    _client, insider = opened(world)
    association = world.acceptor.associations[HERE]
    for text in (b"", b"\x01", b"\x01\x5a", b"\x01\x64", b"\x03\x28", b"\x02\x28\0", b"\x00\x00"):
        assert world.give(insider.seal(text, ALERT)) == []
    assert not world.lost and not world.data
    plain = b"\x15\xfe\xfd\0\0\0\0\0\0\0\x09\0\x02\x02\x28"
    assert world.give(plain) == [] and not world.lost
    assert world.give(insider.seal(b"\x02\x28", ALERT)) == []
    [(lost, error)] = world.lost
    assert lost is association and isinstance(error, Rejected) and error.alert == 40
    assert world.is_empty()
    with pytest.raises(LinkClosed):
        world.acceptor.send(association, b"late")


def test_the_client_says_goodbye(world: World) -> None:
    _client, insider = opened(world)
    association = world.acceptor.associations[HERE]
    assert world.give(insider.seal(GOODBYE, ALERT)) == []
    assert world.data == [(HERE, b"")]
    world.acceptor.close(association)
    assert insider.read(world.sent[-1][0]) == (ALERT, 1, GOODBYE)
    assert world.is_empty()
    world.acceptor.close(association)


def test_data_then_goodbye_in_one_datagram(world: World) -> None:
    _client, insider = opened(world)
    last = insider.seal(b"after the end")
    world.give(insider.seal(b"last") + insider.seal(GOODBYE, ALERT) + last)
    assert [text for _, text in world.data] == [b"last", b""]


def test_renegotiation_is_declined_not_often(world: World) -> None:
    _client, insider = opened(world)
    world.now += REPEAT_PAUSE_S
    [answer] = world.give(insider.seal(HELLO, HANDSHAKE))
    assert insider.read(answer) == (ALERT, 1, b"\x01\x64")  # no_renegotiation, a warning
    assert world.give(insider.seal(HELLO, HANDSHAKE)) == []
    world.now += REPEAT_PAUSE_S
    [answer] = world.give(insider.seal(HELLO, HANDSHAKE))
    assert insider.read(answer)[1] == 2
    world.give(insider.seal(b"x"))
    assert world.data == [(HERE, b"x")]
    assert all(len(records) == 1 for records in nonces(world).values())


def test_who_closes_while_records_are_taken(world: World) -> None:
    """The owner may close in the middle of a datagram; what is behind it is nobody's."""
    _client, insider = opened(world)
    association = world.acceptor.associations[HERE]
    real = world.acceptor._on_data

    def on_data(owner: object, data: bytes) -> None:
        real(association, data)
        world.acceptor.close(association)

    world.acceptor._on_data = on_data  # type: ignore[assignment]
    world.give(insider.seal(b"1") + insider.seal(b"2"))
    assert world.data == [(HERE, b"1")] and world.is_empty()


# -- how much one key may do ----------------------------------------------------------------------


def test_the_last_record_that_a_key_may_seal(world: World) -> None:
    _client, insider = opened(world)
    association = world.acceptor.associations[HERE]
    session_of(association)._numbers = iter(range(MOST_RECORDS - 1, 1 << 48))  # type: ignore[assignment]
    world.acceptor.send(association, b"the last")
    with pytest.raises(LinkClosed, match="connect again") as caught:
        world.acceptor.send(association, b"one more")
    world.acceptor.lose(association, caught.value)
    kind, number, text = insider.read(world.sent[-1][0])
    assert (kind, text) == (ALERT, GOODBYE) and number > MOST_RECORDS
    assert world.lost == [(association, caught.value)] and world.is_empty()


def test_numbers_end_before_they_repeat(world: World) -> None:
    _, _ = opened(world)
    session = session_of(world.acceptor.associations[HERE])
    session._numbers = iter((1 << 48, 1 << 48))  # type: ignore[assignment]
    assert session.goodbye() == b""
    with pytest.raises(LinkClosed):
        session.seal(b"\x01\x64", ALERT)


def test_a_client_that_has_used_up_its_key(world: World) -> None:
    _, insider = opened(world)
    world.give(insider.seal(b"the last", number=MOST_RECORDS - 1))
    assert world.data == [(HERE, b"the last")]
    world.give(insider.seal(b"one more", number=MOST_RECORDS))
    [(_, error)] = world.lost
    assert isinstance(error, LinkClosed) and "connect again" in str(error)
    assert insider.read(world.sent[-1][0])[2] == GOODBYE and world.is_empty()


def test_too_many_forgeries_end_a_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl_compact, "MOST_FORGED", 5)
    _, insider = opened(world)
    for number in range(5):
        assert not world.lost
        record = insider.seal(b"x", number=number + 50)
        world.give(record[:-1] + bytes((record[-1] ^ 1,)))
    assert isinstance(world.lost[0][1], LinkClosed)


# -- AEAD objects ----------------------------------------------------------------------------


def busy(client: Client, count: int = KeptAeads.BUSY_RECORDS + 2) -> None:
    for _ in range(count):
        client.say(b"x")


def test_busy_sessions_keep_their_aeads_and_quiet_ones_do_not(world: World) -> None:
    clients = [world.client(address=("192.0.2.1", 1000 + number)) for number in range(3)]
    for client in clients:
        client.connect()
    world.now += 5
    world.acceptor.handle_timer(world.now)  # those of the handshakes
    kept = world.acceptor.kept
    clients[0].say(b"x")
    assert len(kept) == 0 and world.acceptor.next_timer() is None
    busy(clients[0])
    busy(clients[1])
    assert len(kept) == 2 and world.acceptor.next_timer() == world.now + KeptAeads.SWEEP_S
    for _ in range(2):
        world.now += KeptAeads.SWEEP_S
        world.acceptor.handle_timer(world.now)
        assert world.acceptor.next_timer() == world.now + KeptAeads.SWEEP_S
        busy(clients[1])
    assert len(kept) == 1
    for client in clients:
        client.say(b"after")
        world.acceptor.send(world.acceptor.associations[client.address], b"down")
        client.ssl.feed(world.sent[-1][0])
        assert client.ssl.read() == b"down"
    assert [text for _, text in world.data[-3:]] == [b"after"] * 3
    world.acceptor.close(world.acceptor.associations[clients[1].address])
    assert len(kept) == 0
    world.now += KeptAeads.SWEEP_S
    world.acceptor.handle_timer(world.now)
    assert world.acceptor.next_timer() is None


def test_the_timer_that_is_due_first(world: World) -> None:
    client, _ = opened(world)
    busy(client)
    kept_due = world.now + KeptAeads.SWEEP_S
    handshake_due = world.acceptor.next_timer()
    assert handshake_due is not None and handshake_due < kept_due
    world.now = handshake_due
    world.acceptor.handle_timer(world.now)
    assert world.acceptor.next_timer() == kept_due
    world.now = kept_due - 0.5
    other = world.client(address=("192.0.2.9", 1))
    world.give(other.hello_with_cookie(), other.address)
    assert world.acceptor.next_timer() == kept_due  # in front of the new handshake's


def test_how_many_aeads_are_kept_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptAeads, "MOST_KEPT", 2)
    clients = [world.client(address=("192.0.2.1", 1000 + number)) for number in range(4)]
    for client in clients:
        client.connect()
        busy(client)
    assert len(world.acceptor.kept) == 2
    assert len(world.data) == 4 * (KeptAeads.BUSY_RECORDS + 2)
