"""Frames and files from real devices to a real server, over bad networks."""

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bad_network import Faults, UdpProxy
from bad_streams import Pair, StreamFaults, TcpProxy
from end_to_end.device_process import DeviceProcess, until
from end_to_end.fleet import Fleet, name_of, runtimes
from fleetnet.session import Session
from fleetnet_device import Device
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.blobs import StoredBlob, list_blobs
from fleetnet_server.store.query import query
from interpreters import ROOT, Interpreter

PROGRAM = Path(__file__).with_name("blob_main.py")
CAMERA = str(ROOT / "tests" / "openmv")
RUNTIMES = runtimes()


async def start(
    fleet: Fleet, bundle: Path, runtime: Interpreter | None, mode: str, argument: str = CAMERA
) -> DeviceProcess:
    process = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, str(PROGRAM), str(bundle), mode, argument,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env=device_environment(), start_new_session=True,
    )  # fmt: skip
    device = DeviceProcess(bundle.name, process)
    fleet.devices.append(device)
    return device


def kept(fleet: Fleet, blob: StoredBlob) -> bytes:
    return (fleet.folder / "blobs" / blob.path).read_bytes()


def check_frame(fleet: Fleet, device: DeviceProcess) -> None:
    """The store has the frame, identical, and every reading."""
    (blob,) = list_blobs(fleet.store, device.name)
    assert (blob.name, blob.content_format) == ("frame", 22)
    data = kept(fleet, blob)
    assert hashlib.sha256(data).hexdigest() == blob.sha256 == device.last("sha256")
    assert len(data) == blob.size == device.last("size") > 55_000
    counts = [r.value for r in query(fleet.store, device.name, "count")]
    assert counts == list(range(len(counts)))


def percentile(values: list[int], percent: int) -> int:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def show(device: DeviceProcess) -> None:
    """Figures for people; none is asserted."""
    last: dict[str, Any] = device.lines[-1]
    print(
        device.name, {key: last[key] for key in ("took_ms", "chunks", "resent", "connects")},
        "readings p50, p99 ms before:", [percentile(last["calm_ms"], p) for p in (50, 99)],
        "meanwhile:", [percentile(last["busy_ms"], p) for p in (50, 99)],
    )  # fmt: skip


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
@pytest.mark.parametrize("transport", ["tls", "dtls"])
async def test_a_frame_arrives(fleet: Fleet, runtime: Interpreter | None, transport: str) -> None:
    bundle = fleet.add_device("cam", transport)
    device = await start(fleet, bundle, runtime, "frame")
    await device.ended()
    show(device)
    check_frame(fleet, device)
    chunks = -(-device.last("size") // (4000 if transport == "tls" else 1120))
    assert (device.last("chunks"), device.last("resent")) == (chunks, 0)


class CutAtChunk:
    """Watches the datagrams to the server: at the n-th full one the NAT forgets the device."""

    def __init__(self, proxy: UdpProxy, chunk: int):
        self.left = chunk
        self._proxy = proxy
        self._carry = proxy.up.carry
        proxy.up.carry = self.carry  # type: ignore[method-assign]

    def carry(self, data: bytes, send: Any) -> None:
        self._carry(data, send)
        if len(data) > 1100:
            self.left -= 1
            if self.left == 0:
                self._proxy.rebind()


@pytest.mark.parametrize("runtime", [RUNTIMES[0], None], ids=name_of)
async def test_a_frame_over_bad_dtls_with_a_cut_resumes(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    """10 % lost in each direction, 80 ms there and back, and a new address in the middle."""
    faults = Faults(loss=0.1, delay_ms=40), Faults(loss=0.1, delay_ms=40)
    proxy = UdpProxy(fleet.dtls, 7, *faults)
    await proxy.start()
    try:
        cut = CutAtChunk(proxy, 35)
        bundle = fleet.add_device("cam", "dtls", proxy.address)
        device = await start(fleet, bundle, runtime, "frame")
        await device.ended()
    finally:
        await proxy.close()
    show(device)
    assert cut.left < 0 and proxy.up.counters["lost"] > 0
    assert device.last("connects") == 2
    check_frame(fleet, device)
    # 35 left before the cut. What was lost, or on its way then, went again, and probes; not all.
    assert device.last("resent") < 54


@pytest.mark.parametrize("runtime", [RUNTIMES[0], None], ids=name_of)
async def test_a_frame_over_bad_dtls(fleet: Fleet, runtime: Interpreter | None) -> None:
    """10 % lost in each direction, nothing else: how long readings take meanwhile."""
    proxy = UdpProxy(fleet.dtls, 11, Faults(loss=0.1), Faults(loss=0.1))
    await proxy.start()
    try:
        bundle = fleet.add_device("cam", "dtls", proxy.address)
        device = await start(fleet, bundle, runtime, "frame")
        await device.ended()
    finally:
        await proxy.close()
    show(device)
    assert proxy.up.counters["lost"] > 0
    check_frame(fleet, device)


class ResetOnce(TcpProxy):
    """Its faults are those of the first connection: handshake and readings leave room in 30 KB
    for half of the frame."""

    def forget(self, pair: Pair) -> None:
        super().forget(pair)
        self.up = StreamFaults()


@pytest.mark.parametrize("runtime", [RUNTIMES[0], None], ids=name_of)
async def test_a_frame_over_tls_with_a_cut_resumes(
    fleet: Fleet, runtime: Interpreter | None
) -> None:
    proxy = ResetOnce(fleet.tls, up=StreamFaults(end_after=(30_000, 30_000)))
    await proxy.start()
    try:
        bundle = fleet.add_device("cam", "tls", proxy.address)
        device = await start(fleet, bundle, runtime, "frame")
        await device.ended()
    finally:
        await proxy.close()
    show(device)
    assert proxy.counters["ended"] == 1
    assert device.last("connects") == 2
    check_frame(fleet, device)


async def until_frame(device: DeviceProcess) -> None:
    while not any("frame" in line for line in device.lines):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_the_newest_frame_wins(fleet: Fleet, runtime: Interpreter | None) -> None:
    device = await start(fleet, fleet.add_device("cam", "dtls"), runtime, "newest")
    await device.ended()
    assert device.last("went") == [True, False, False, False, True]
    sent = device.last("sent")
    assert [blob.sha256 for blob in list_blobs(fleet.store)] == [sent[4], sent[0]]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_a_file_arrives_and_is_fetched(
    fleet: Fleet, tmp_path: Path, runtime: Interpreter | None
) -> None:
    data = hashlib.shake_128(b"file").digest(300_000)
    source = tmp_path / "source"
    source.write_bytes(data)
    device = await start(fleet, fleet.add_device("cam", "dtls"), runtime, "file", str(source))
    await device.ended()
    assert device.last("sha256") == hashlib.sha256(data).hexdigest()
    (line,) = run(fleet, "blob", "list").splitlines()
    number, _, name, title, form, size, digest = line.split("\t")
    assert (name, title, form, size) == ("cam", "picture", "jpeg", "300000")
    assert device.last("sha256").startswith(digest)
    target = tmp_path / "target"
    run(fleet, "blob", "get", number, str(target))
    assert target.read_bytes() == data


def run(fleet: Fleet, *arguments: str) -> str:
    done = subprocess.run(
        fleet.command(*arguments), env=fleet.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("runtime", [r for r in RUNTIMES if r], ids=name_of)
async def test_the_heap_does_not_grow_with_the_blob(fleet: Fleet, runtime: Interpreter) -> None:
    device = await start(fleet, fleet.add_device("cam", "dtls"), runtime, "heap")
    await device.ended()
    small, large = device.last("grown")
    print({"heap grown by a blob of 20 KB, 400 KB, B": (small, large)})
    assert large < small + 4096
    assert large < 24_576


async def test_the_server_is_killed_in_the_middle(fleet: Fleet) -> None:
    proxy = UdpProxy(fleet.dtls, 7, Faults(delay_ms=40), Faults(delay_ms=40))
    await proxy.start()
    try:
        bundle = fleet.add_device("cam", "dtls", proxy.address)
        device = await start(fleet, bundle, RUNTIMES[0], "frame")
        await until_frame(device)
        await asyncio.sleep(0.2)
        await fleet.kill_server()
        await fleet.start_server()
        await device.ended()
    finally:
        await proxy.close()
    check_frame(fleet, device)


class HastyDevice(Device):
    """Its program sends its first frame while HELLO is on its way to the server."""

    frame: "asyncio.Task[bool] | None" = None

    def new_link(self, datagram: bool) -> Session:
        session = super().new_link(datagram)
        if self.frame is None:
            self.frame = asyncio.create_task(self.send_frame(b"\xff\xd8 no camera \xff\xd9"))
        return session


@pytest.mark.parametrize("link", ["tls", "dtls"])
async def test_a_part_that_is_younger_than_hello_gets_a_session_that_knows_it(
    fleet: Fleet, link: str
) -> None:
    async with HastyDevice(str(fleet.add_device("hasty", link)), linger_ms=0) as device:
        await until(lambda: device.frame is not None and device.frame.done(), "the frame came", 30)
        assert device.frame is not None and device.frame.result() and device.connects == 2
        assert len(list(list_blobs(fleet.store, "hasty"))) == 1
