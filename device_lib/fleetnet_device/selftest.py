"""A self-test on the device: can this board, with this bundle, reach its server?

    from fleetnet_device.selftest import run
    run("bundle")

prints one line, ``fleetnet-selftest: {...}``, and never raises. `fleetnet device install`
runs it; so may anybody at the board's prompt. It loads the credentials, connects, sends one
reading (channel "selftest") and waits until the server has it on its disk.
"""

import asyncio
import gc
import json
import sys

import fleetnet
from fleetnet.errors import HandshakeTimeout, LinkError
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device.device import ONLINE, Device

MARK = "fleetnet-selftest: "
CHANNEL = "selftest"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(bundle: str, timeout_ms: int = 30_000) -> None:
    """Run the test and print its result.

    Args:
        bundle: the folder that `fleetnet device add` made.
        timeout_ms: for connecting, and again for the acknowledgement.
    """
    print(MARK + json.dumps(asyncio.run(check(bundle, timeout_ms))))


async def check(bundle: str, timeout_ms: int = 30_000) -> "dict[str, Any]":
    """Run the test; return what to print.

    Keys: ok; stage ("credentials", "connect", "acknowledge" or "done": where it ended); error
    and text (class and message) unless ok; firmware, library, folder (where the library was
    imported from), name, transport, cipher ([name, version]), heap_free (bytes, after a
    collection, while connected), and ms: how long each stage took.
    """
    result: "dict[str, Any]" = {
        "ok": False,
        "stage": "credentials",
        "firmware": port.platform_text(),
        "library": fleetnet.__version__,
        "folder": _folder(),
        "ms": {},
    }
    device = None
    began = port.ticks()
    try:
        device = Device(bundle, linger_ms=0)
        result["name"] = device.name
        if not device.credentials.claim:  # else there is nothing to load yet
            device.credentials.context(device.credentials.transport != "tls", False)
        began = _passed(result, "credentials", "connect", began)
        await _connect(device, timeout_ms)
        began = _passed(result, "connect", "acknowledge", began)
        _describe(device, result)
        await device.send(CHANNEL, result["firmware"])
        if not await device.flush(timeout_ms):
            raise device.last_error or HandshakeTimeout("the server acknowledged nothing in time")
        _passed(result, "acknowledge", "done", began)
        result["ok"] = True
    except Exception as error:
        # A bare MemoryError or OSError tells the person at the prompt as much as ours.
        result["error"] = type(error).__name__
        result["text"] = str(error)
    finally:
        if device is not None:
            await device.stop()
    return result


async def _connect(device: Device, timeout_ms: int) -> None:
    """Wait for a session; raise why there is none."""
    began = port.ticks()
    await device.start()
    while device.state != ONLINE:
        error = device.last_error
        # What another try may change is tried again until the time is over.
        is_final = error is not None and not isinstance(error, (LinkError, OSError))
        if is_final or ticks_diff(port.ticks(), began) > timeout_ms:
            raise error or HandshakeTimeout("no session in time")
        await port.sleep_ms(20)


def _passed(result: "dict[str, Any]", stage: str, following: str, began: int) -> int:
    now = port.ticks()
    result["ms"][stage] = ticks_diff(now, began)
    result["stage"] = following
    return now


def _describe(device: Device, result: "dict[str, Any]") -> None:
    result["transport"] = device.link
    result["cipher"] = list(device.cipher() or ())
    gc.collect()
    if hasattr(gc, "mem_free"):
        result["heap_free"] = gc.mem_free()


def _folder() -> str:
    path = getattr(fleetnet, "__path__", "")
    return path if isinstance(path, str) else str(sys.modules["fleetnet"].__file__)
