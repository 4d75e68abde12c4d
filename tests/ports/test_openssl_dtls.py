"""DtlsAcceptor: strangers leave no state, clients get through losses, nobody is disturbed."""

import os
import random
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtls_world import HERE, Client, World
from fleetnet.errors import HandshakeTimeout, Rejected, WrongCA
from fleetnet.ports.openssl_dtls_wire import parse_hello_untrusted
from pki import Pki

FLOOD = int(os.environ.get("FLEETNET_FLOOD", "20000"))


@pytest.fixture
def world(pki: Pki) -> World:
    return World(pki)


@pytest.fixture(params=["compact", "openssl"])
def either(pki: Pki, request: pytest.FixtureRequest) -> World:
    """Associations behind their handshake: keys alone, or OpenSSL's object."""
    return World(pki, compact=request.param == "compact")


def test_a_client_gets_in_and_data_flows(either: World) -> None:
    world = either
    client = world.client()
    association = client.connect()
    assert world.opened == [association]
    assert association.ssl.peer_certificate() == world.pki.device.certificate
    client.say(b"up")
    assert world.data == [(HERE, b"up")]
    world.acceptor.send(association, b"down")
    client.ssl.feed(world.sent[-1][0])
    assert client.ssl.read() == b"down"
    assert not world.acceptor.half_open and world.acceptor.handshakes == 1


def test_the_cookie_comes_before_any_state(world: World) -> None:
    client = world.client()
    hello = client.hello()
    [request] = world.give(hello)
    assert request[13] == 3 and len(request) <= len(hello)  # HelloVerifyRequest
    assert world.is_empty()
    assert world.acceptor.next_timer() is None


def test_a_cookie_is_good_for_its_address_and_its_hello_only(world: World) -> None:
    hello = world.client().hello_with_cookie()
    for address in (("192.0.2.8", 4000), ("192.0.2.7", 4001)):
        [answer] = world.give(hello, address)
        assert answer[13] == 3
    changed = bytearray(hello)
    changed[30] ^= 1  # in the client's random
    [answer] = world.give(bytes(changed))
    assert answer[13] == 3
    assert world.is_empty()
    world.give(hello)
    assert HERE in world.acceptor.half_open


def test_forged_cookies(world: World) -> None:
    hello = world.client().hello_with_cookie()
    at = hello.index(parse_hello_untrusted(hello)[0])  # type: ignore[index]
    chance = random.Random(1)
    for _ in range(500):
        world.give(hello[:at] + chance.randbytes(16) + hello[at + 16 :])
    assert world.is_empty()


def test_cookies_age(world: World) -> None:
    hello = world.client().hello_with_cookie()
    world.now += 59
    other = World(world.pki)  # its keys are its own
    other.give(hello)
    assert other.is_empty()
    world.give(hello)
    assert not world.is_empty()
    late = World(world.pki)
    hello = late.client().hello_with_cookie()
    late.now += 3600
    late.give(hello)
    assert late.is_empty()


def resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def strangers(world: World, count: int) -> tuple[int, int]:
    """Send hellos from ever new addresses, and junk; return bytes sent and answered."""
    chance = random.Random(7)
    hello = world.client().hello()
    received = answered = 0
    for number in range(count):
        address = (f"198.51.{number % 251}.{number % 241}", 1024 + number % 60000)
        match number % 4:
            case 0 | 1:
                data = hello[:27] + chance.randbytes(32) + hello[59:]
            case 2:
                data = chance.randbytes(chance.randrange(0, 200))
            case _:
                data = hello[: chance.randrange(0, len(hello))] + chance.randbytes(9)
        received += len(data)
        answered += sum(map(len, world.give(data, address)))
        world.sent.clear()
    return received, answered


def test_a_flood_of_strangers_leaves_nothing(world: World) -> None:
    strangers(world, FLOOD // 10)
    before = resident_kib()
    received, answered = strangers(world, FLOOD)
    assert world.is_empty() and world.acceptor.next_timer() is None
    assert 0 < answered <= received
    assert resident_kib() - before < 2048
    assert world.acceptor.hellos >= FLOOD // 2
    assert world.client().connect() is not None


def test_no_answer_is_longer_than_its_question(world: World) -> None:
    chance = random.Random(3)
    hello = world.client().hello()
    for _ in range(3000):
        data = bytearray(hello)
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randrange(len(data) + 1)]
        assert sum(map(len, world.give(bytes(data)))) <= len(data)
    assert world.is_empty()


@pytest.mark.parametrize("state", ["stranger", "half-open", "open"])
def test_tiny_and_odd_datagrams_are_ignored(world: World, state: str) -> None:
    client = world.client()
    if state == "half-open":
        answers = world.give(client.hello_with_cookie())
    elif state == "open":
        client.connect()
    chance = random.Random(5)
    for length in range(25):
        for first in (0, 20, 21, 22, 23, 24, 255):
            rest = chance.randbytes(max(length - 1, 0))
            assert world.give(bytes((first,))[:length] + rest) == []
    assert not world.refused and not world.lost
    if state == "half-open":
        for datagram in answers:
            client.take(datagram)
    client.connect()
    client.say(b"x")
    assert world.data == [(HERE, b"x")]


def lost_once(pki: Pki, from_client: bool, number: int) -> bool:
    world = World(pki)
    client = world.client()
    client.lose = lambda is_client, n: (is_client, n) == (from_client, number)
    client.settle()
    client.say(b"x")
    assert not world.acceptor.half_open
    return world.data == [(HERE, b"x")]


def test_the_loss_of_any_datagram_is_made_good(pki: Pki) -> None:
    """In parallel: OpenSSL's timers of a second run in real time."""
    probe = World(pki).client()
    probe.connect()
    cases = [(side, n) for side in (True, False) for n in range(probe._counts[side])]
    assert len(cases) >= 6
    with ThreadPoolExecutor(len(cases)) as pool:
        assert all(pool.map(lambda case: lost_once(pki, *case), cases))


def test_the_server_repeats_its_flight_by_its_own_timer(world: World) -> None:
    first = world.give(world.client().hello_with_cookie())
    due = world.acceptor.next_timer()
    assert due is not None and 0 < due - world.now <= 1.0  # what is left of OpenSSL's second
    time.sleep(1.05)
    world.sent.clear()
    world.now += 1.05
    world.acceptor.handle_timer(world.now)
    # OpenSSL cuts the messages into other fragments when it repeats them.
    again = sum(len(data) for data, _ in world.sent)
    assert abs(again - sum(map(len, first))) < 100
    assert world.acceptor.next_timer() is not None


def test_copies_of_every_handshake_datagram_do_no_harm(either: World) -> None:
    world = either
    client = world.client()
    twice = world.give

    def give(data: bytes, address: tuple[str, int] = HERE) -> list[bytes]:
        return twice(data, address) + twice(data, address)

    world.give = give  # type: ignore[assignment,method-assign]
    client.connect()
    client.say(b"x")
    assert world.data == [(HERE, b"x")]
    assert not world.acceptor.half_open and len(world.opened) == 1


def test_a_late_copy_of_the_hello_opens_nothing(world: World) -> None:
    client = world.client()
    hello = client.hello_with_cookie()
    for datagram in world.give(hello):
        client.take(datagram)
    client.connect()
    assert world.give(hello) == []
    assert not world.acceptor.half_open


def test_a_rebooted_client_replaces_itself_only_when_it_has_finished(either: World) -> None:
    world = either
    before = world.client()
    old = before.connect()
    rebooted = world.client()
    for datagram in world.give(rebooted.hello_with_cookie()):
        rebooted.take(datagram)
    assert world.acceptor.associations[HERE] is old and not world.lost
    before.say(b"still here")
    assert world.data == [(HERE, b"still here")]
    new = rebooted.connect()
    assert new is not old
    assert world.lost == [(old, None)]
    rebooted.say(b"new")
    assert world.data[-1] == (HERE, b"new") and len(world.acceptor.associations) == 1


def test_a_client_that_reboots_in_its_handshake_is_not_kept_waiting(world: World) -> None:
    world.give(world.client().hello_with_cookie())
    again = world.client()
    again.connect()
    again.say(b"x")
    assert world.data == [(HERE, b"x")] and not world.acceptor.half_open


def test_goodbye_beside_an_unfinished_handshake(either: World) -> None:
    world = either
    client = world.client()
    client.connect()
    world.give(world.client().hello_with_cookie())
    client.ssl.close_notify()
    world.give(client.ssl.output())
    assert world.data == [(HERE, b"")]


def test_forgeries_on_a_live_address_disturb_nobody(either: World) -> None:
    world = either
    client = world.client()
    association = client.connect()
    hello = world.client().hello()
    chance = random.Random(9)
    alert = b"\x15\xfe\xfd\0\0\0\0\0\0\0\x09\0\x02\x02\x28"
    sealed_alert = b"\x15\xfe\xfd\0\x01\0\0\0\0\0\x99\0\x20" + chance.randbytes(32)
    finished = b"\x16\xfe\xfd\0\x01\0\0\0\0\0\x09\0\x28" + chance.randbytes(40)
    plain = b"\x16\xfe\xfd\0\0\0\0\0\0\0\x09\0\x20\x10\0\0\x14\0\0\0\0\0\0\0\x14" + bytes(20)
    for datagram in (hello, alert, sealed_alert, finished, plain, chance.randbytes(300)):
        world.give(datagram)
        world.give(datagram[:-3])
        client.say(b"x")
    assert world.data == [(HERE, b"x")] * 6
    assert world.acceptor.associations == {HERE: association} and not world.lost


def test_replayed_and_damaged_records_are_dropped(either: World) -> None:
    world = either
    client = world.client()
    client.connect()
    client.ssl.write(b"once")
    sealed = client.ssl.output()
    for _ in range(3):
        world.give(sealed)
    assert world.data == [(HERE, b"once")]
    client.ssl.write(b"whole")
    sealed = client.ssl.output()
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        world.give(bytes(damaged))
    assert world.data == [(HERE, b"once")]
    world.give(sealed)
    assert world.data[-1] == (HERE, b"whole")


def test_several_records_in_one_datagram_and_in_any_order(either: World) -> None:
    world = either
    client = world.client()
    client.connect()
    records = []
    for number in range(6):
        client.ssl.write(b"%d" % number)
        records.append(client.ssl.output())
    damaged = records[4][:-1] + bytes((records[4][-1] ^ 1,))
    world.give(records[3] + records[0])
    world.give(damaged + records[5])
    world.give(records[2] + damaged)
    world.give(records[1])
    assert [data for _, data in world.data] == [b"3", b"0", b"5", b"2", b"1"]


def abandon(world: World, count: int) -> None:
    for number in range(count):
        client = world.client(address=("203.0.113.5", 2000 + number))
        world.give(client.hello_with_cookie(), client.address)


def test_unfinished_handshakes_are_capped_and_forgotten(pki: Pki) -> None:
    world = World(pki, max_handshakes=20, timeout_s=3.0)
    abandon(world, 50)
    assert len(world.acceptor.half_open) == 20
    assert world.acceptor.overloaded == 30
    assert len(world.acceptor._timers) <= 20
    world.now += 3.0
    world.acceptor.handle_timer(world.now)
    assert world.is_empty() and world.acceptor.next_timer() is None
    assert len(world.refused) == 20
    assert all(isinstance(error, HandshakeTimeout) for _, error in world.refused)
    world.client().connect()


def test_junk_on_a_half_open_address_adds_no_timers(world: World) -> None:
    world.give(world.client().hello_with_cookie())
    for number in range(1000):
        world.now += 0.001
        world.give(b"\x14\xfe\xfd\0\0\0\0\0\0\0%c\0\x01\x01" % (number & 0xFF))
    assert len(world.acceptor._timers) <= 2


# A piece of a client's Certificate message, as its timer would repeat it.
FLIGHT = b"\x16\xfe\xfd\0\0\0\0\0\0\0\x09\0\x20\x0b" + bytes(31)


def refuse(world: World, client: Client) -> None:
    """Run a handshake whose alert is lost."""
    client.lose = lambda is_client, _n: not is_client and bool(world.refused)
    client.go()


def test_a_refused_client_hears_why_although_the_alert_was_lost(world: World) -> None:
    client = world.client(world.pki.device_of_other_ca)
    refuse(world, client)
    [(address, error)] = world.refused
    assert address == HERE and isinstance(error, WrongCA)
    assert not world.acceptor.half_open
    client.lose = lambda _side, _n: False
    [alert] = world.give(FLIGHT)
    with pytest.raises(Rejected) as caught:
        client.take(alert)
    assert caught.value.alert == 48


def test_the_alert_is_repeated_some_times_for_some_seconds(pki: Pki) -> None:
    world = World(pki)
    refuse(world, world.client(pki.device_of_other_ca))
    assert [len(world.give(FLIGHT)) for _ in range(12)] == [1] * 8 + [0] * 4
    world = World(pki)
    refuse(world, world.client(pki.device_of_other_ca))
    assert world.give(FLIGHT[:14]) == []  # never longer than the question
    assert len(world.give(FLIGHT)) == 1
    world.now += 11
    assert world.give(FLIGHT) == []
    assert world.is_empty()
    world.client().connect()


def test_stopping_ends_no_association(either: World) -> None:
    world = either
    client = world.client()
    client.connect()
    world.acceptor.is_accepting = False
    assert world.give(world.client(address=("192.0.2.9", 1)).hello(), ("192.0.2.9", 1)) == []
    client.say(b"x")
    assert world.data == [(HERE, b"x")]


def test_close_says_goodbye(either: World) -> None:
    world = either
    client = world.client()
    association = client.connect()
    world.acceptor.close(association)
    client.ssl.feed(world.sent[-1][0])
    assert client.ssl.read() == b""
    assert world.is_empty()


def test_a_client_that_ends_with_an_alert(either: World) -> None:
    world = either
    client = world.client()
    association = client.connect()
    before = len(world.sent)
    client.ssl.close_notify()
    world.give(client.ssl.output())
    assert world.data == [(HERE, b"")] and len(world.sent) == before
    world.acceptor.close(association)
    assert world.is_empty()
