"""The device's part for blobs: newest wins, files, refusals, cancelling; no network."""

import asyncio
import hashlib
import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0] if "/" in __file__ else ".")
from blob_world import content
from part_device import Frame, PartDevice

from fleetnet.blob_receiver import BlobReceiver
from fleetnet.blobs import (
    JPEG,
    REFUSED,
    STORED,
    State,
    decode_chunk,
    decode_offer,
)
from fleetnet.errors import BlobRefused
from fleetnet.frame import BLOB
from fleetnet.handshake import CAN_BLOB, Welcome
from fleetnet_device.blobs import FileSource, Part


class Credentials:
    transport = "dtls"


class Session:
    bulk = None


class BlobDevice(PartDevice):
    """A device whose part talks to a server that stores everything, when it is told to."""

    def __init__(self):
        PartDevice.__init__(self)
        self.credentials = Credentials()
        self.session = Session()
        self.blobs = Part(self)
        self.offers = []
        self.kept = []
        self.refuse = 0
        self._receiver = None
        self._content = None

    def wake(self):
        pass

    def open(self, capabilities=CAN_BLOB):
        welcome = Welcome()
        welcome.capabilities = capabilities
        self.blobs.greet(None)
        self.blobs.opened(welcome)

    def tell(self, state):
        self.blobs.receive(Frame(state.to_payload()))

    async def serve(self, frames=10_000):
        """Carry frames to the server and its answers back; settle before and after."""
        await self.settle()
        for _ in range(frames):
            piece = self.session.bulk.next_frame(0)
            if piece is None:
                break
            self._take(piece[0], bytes(piece[1]))
        await self.settle()

    def _take(self, kind, payload):
        if kind == BLOB:
            offer = decode_offer(payload)
            self.offers.append(offer)
            if self.refuse:
                state = State(offer.id, REFUSED)
                state.reason = self.refuse
                self.tell(state)
                return
            self._receiver = BlobReceiver(offer)
            self._content = bytearray(offer.size)
            number = offer.number
        else:
            _, index, number, _, data = decode_chunk(payload)
            assert self._receiver.wants(index, len(data))
            at = index * self._receiver.offer.chunk
            self._content[at : at + len(data)] = bytes(data)
            self._receiver.take(index)
        offer = self._receiver.offer
        self.tell(self._receiver.state(offer.id, number))
        if self._receiver.is_complete:
            self.kept.append(bytes(self._content))
            self.tell(State(offer.id, STORED))


async def outcome_of(work):
    try:
        return await work
    except BlobRefused as error:
        return error


def attempt(work):
    """Begin a call that may be refused; its task returns the refusal."""
    return asyncio.create_task(outcome_of(work))


async def refusal_of(task):
    error = await task
    assert isinstance(error, BlobRefused), error
    return error


async def test_a_buffer_arrives_and_its_hash_is_returned():
    device = BlobDevice()
    device.open()
    data = content(10_000)
    task = asyncio.create_task(device.blobs.send_blob("log", memoryview(data), 0))
    await device.serve()
    assert await task == hashlib.sha256(data).digest().hex()
    assert device.kept == [data]
    offer = device.offers[0]
    assert (offer.name, offer.content_format, offer.size) == ("log", 0, 10_000)
    assert offer.base_ms == 1_700_000_000_000
    assert (device.blobs.stored, device.blobs.sent, device.blobs.resent) == (1, 9, 0)


async def test_a_file_arrives_and_is_closed():
    device = BlobDevice()
    device.open()
    path = "blob-%s.tmp" % os.urandom(4).hex()
    data = content(40_000, 3)
    write(path, data)
    try:
        task = asyncio.create_task(device.blobs.send_blob("file", path))
        await device.serve()
        await task
        assert device.kept == [data]
    finally:
        os.remove(path)


async def test_a_file_that_shrinks_is_a_refusal_and_no_broken_session():
    device = BlobDevice()
    device.open()
    path = "blob-%s.tmp" % os.urandom(4).hex()
    write(path, content(10_000))
    try:
        task = attempt(device.blobs.send_blob("file", path))
        await device.settle()
        write(path, b"short")
        await device.serve()
        error = await refusal_of(task)
        assert "shorter" in str(error), error
    finally:
        os.remove(path)


async def test_a_missing_file_is_an_os_error_and_the_next_blob_goes():
    device = BlobDevice()
    device.open()
    try:
        await device.blobs.send_blob("file", "no/such/file")
        raise AssertionError("accepted")
    except OSError:
        pass
    task = asyncio.create_task(device.blobs.send_blob("next", b"data"))
    await device.serve()
    await task
    assert device.kept == [b"data"]


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


async def test_a_refusal_names_blob_and_reason():
    device = BlobDevice()
    device.refuse = 1
    device.open()
    task = attempt(device.blobs.send_blob("big", content(3000)))
    await device.serve()
    error = await refusal_of(task)
    assert error.reason == 1
    assert "big" in str(error) and "3000 B" in str(error) and "larger" in str(error), error
    assert device.blobs.refused == 1


async def test_a_server_that_takes_no_blobs_is_told():
    device = BlobDevice()
    task = attempt(device.blobs.send_blob("log", b"data"))
    await device.settle()
    device.open(0)
    assert (await refusal_of(task)).reason == 0


async def test_names_are_checked():
    device = BlobDevice()
    for name in ("", "n" * 65):
        try:
            await device.blobs.send_blob(name, b"data")
            raise AssertionError(name)
        except ValueError:
            pass


async def test_blobs_leave_in_the_order_of_the_calls():
    device = BlobDevice()
    device.open()
    tasks = [
        asyncio.create_task(device.blobs.send_blob("b%d" % n, b"data %d" % n)) for n in range(4)
    ]
    for _ in range(4):
        await device.serve()
    for task in tasks:
        await task
    assert [offer.name for offer in device.offers] == ["b0", "b1", "b2", "b3"]
    ids = [offer.id for offer in device.offers]
    assert len(set(ids)) == 4


async def test_the_newest_frame_wins():
    device = BlobDevice()
    device.open()
    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(device.blobs.send_frame(b"frame %d" % number)))
        await device.settle()
    for _ in range(3):
        await device.serve()
    went = []
    for task in tasks:
        went.append(await task)
    assert went == [True, False, False, False, True]
    assert device.kept == [b"frame 0", b"frame 4"]
    assert device.offers[0].content_format == JPEG
    assert device.blobs.replaced == 3
    again = asyncio.create_task(device.blobs.send_frame(b"frame 5"))
    await device.serve()
    assert await again


async def test_a_frame_that_is_given_up_lets_the_next_one_go():
    for cancelled in (0, 1):
        device = BlobDevice()
        device.open()
        tasks = []
        for number in range(2):
            tasks.append(asyncio.create_task(device.blobs.send_frame(b"frame %d" % number)))
            await device.settle()
        tasks[cancelled].cancel()
        await device.serve()
        await device.serve()
        assert device.kept == [b"frame %d" % (1 - cancelled)], device.kept
        assert await tasks[1 - cancelled]
        again = asyncio.create_task(device.blobs.send_frame(b"last"))
        await device.serve()
        assert await again


async def test_a_refused_frame_lets_the_next_one_go():
    device = BlobDevice()
    device.open()
    device.refuse = 2
    tasks = []
    for number in range(2):
        tasks.append(attempt(device.blobs.send_frame(b"frame %d" % number)))
        await device.settle()
    await device.serve(1)
    device.refuse = 0
    await device.serve()
    await refusal_of(tasks[0])
    assert await tasks[1]


async def test_a_cancelled_blob_is_not_sent_on():
    device = BlobDevice()
    device.open()
    task = asyncio.create_task(device.blobs.send_blob("log", content(5000)))
    await device.serve(2)
    task.cancel()
    await device.settle()
    assert device.session.bulk.next_frame(0) is None
    assert device.session.bulk.next_timer() is None


async def test_a_reboot_and_two_links_meet_no_old_number():
    ids = set()
    for _ in range(20):
        ids.add(BlobDevice().blobs._id)
    assert len(ids) > 15


async def test_a_file_is_read_into_one_buffer():
    path = "blob-%s.tmp" % os.urandom(4).hex()
    data = content(20_000)
    write(path, data)
    try:
        source = FileSource(path)
        scratch = memoryview(bytearray(1120))
        assert await source.digest(scratch) == hashlib.sha256(data).digest()
        source.read_into(19_000, scratch[:1000])
        assert bytes(scratch[:1000]) == data[19_000:]
        source.close()
    finally:
        os.remove(path)
