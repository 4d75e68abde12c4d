"""Time from an NTP server, without blocking: good, bad and missing answers over real UDP."""

import asyncio
import json
import struct
import sys
from pathlib import Path

import pytest

from fleetnet_server.sim.interpreters import device_environment
from interpreters import Interpreter, interpreters

PROGRAM = Path(__file__).with_name("ntp_client.py")
RUNTIMES = [*interpreters(), None]
NOW_S = 1_800_000_000


def answer(seconds: int, mode: int = 4, stratum: int = 2, fraction: int = 1 << 31) -> bytes:
    """A server's packet (RFC 4330 section 4) whose transmit time is ``seconds`` since 1900."""
    return bytes((0x18 | mode, stratum)) + bytes(38) + struct.pack(">II", seconds, fraction)


class Server(asyncio.DatagramProtocol):
    """Answers each question with all of ``answers``."""

    def __init__(self, answers: list[bytes]):
        self._answers = answers
        self.questions: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.questions.append(data)
        for packet in self._answers:
            self._transport.sendto(packet, address)  # type: ignore[attr-defined]


async def asked(runtime: Interpreter | None, answers: list[bytes], timeout_ms: int) -> list[object]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Server(answers), local_addr=("127.0.0.1", 0)
    )
    try:
        number = transport.get_extra_info("sockname")[1]
        process = await asyncio.create_subprocess_exec(
            runtime.path if runtime else sys.executable,
            str(PROGRAM),
            str(number),
            str(timeout_ms),
            env=device_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        assert server.questions[0][0] == 0x1B and len(server.questions[0]) == 48
        found: list[object] = json.loads(out)
        return found
    finally:
        transport.close()


def name_of(runtime: Interpreter | None) -> str:
    return "cpython" if runtime is None else runtime.name


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_good_answer_behind_bad_ones(runtime: Interpreter | None) -> None:
    good = answer(NOW_S + 2_208_988_800)
    bad = [b"", b"junk", answer(5, mode=3), answer(5, stratum=0), good[:47]]
    assert await asked(runtime, [*bad, good], 5_000) == [NOW_S * 1000 + 500, ""]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_era_of_2036(runtime: Interpreter | None) -> None:
    seconds = 2_085_978_496 + 100  # the counter began anew on 2036-02-07 06:28:16 UTC
    found = await asked(runtime, [answer(100, fraction=0)], 5_000)
    assert found == [seconds * 1000, ""]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
async def test_no_good_answer_is_an_error_with_a_question(runtime: Interpreter | None) -> None:
    unix_ms, error = await asked(runtime, [b"junk"], 100)
    assert unix_ms == 0 and "no time from 127.0.0.1" in str(error)
