"""The configuration that the back-end wants this device to have.

    rate = device.config.get("rate", 10)

    @device.config.on_change
    def take(document):
        if not 0 < document.get("rate", 10) <= 100:
            raise ValueError("rate is 1 to 100")
        return {"rate": document.get("rate", 10)}

A new document goes to every callback before it holds. One that raises rejects it: the old
one stays in force, and the back-end reads the reason. What callbacks return (objects) is
reported. A document that was accepted is kept on the flash, whole or not at all.

Source: docs/protocol.md section 3.4.
"""

from fleetnet.commands import (
    APPLIED,
    REJECTED,
    decode_config,
    encode_config_state,
)
from fleetnet.errors import ProtocolError
from fleetnet.frame import COMMANDS, CONFIG, CONFIG_STATE
from fleetnet.handshake import CAN_CONFIGURE
from fleetnet.limits import MAX_TEXT
from fleetnet.ports import port
from fleetnet_device import saved
from fleetnet_device.limits import APPLY_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fleetnet.events import Received
    from fleetnet.handshake import Hello
    from fleetnet_device.device import Device

    Document = dict[str, Any]


class Part:
    """A device's configuration; read it like a dict.

    Attributes:
        version: of the document in force; 0: none came yet.
        document: the object itself; do not change it.
    """

    capability = CAN_CONFIGURE
    kinds = (CONFIG,)

    def __init__(self, device: "Device"):
        self._device = device
        self._callbacks: "list[Callable[[Document], Any]]" = []
        self._wanted: "bytes | None" = None
        self._is_applying = False
        self._reported: "Document" = {}
        self.version = 0
        self.document: "Document" = {}
        folder = device.flash
        self._path = folder + "/configuration" if folder else ""
        if self._path:
            self._load()

    def __getitem__(self, key: str) -> "Any":
        return self.document[key]

    def __contains__(self, key: str) -> bool:
        return key in self.document

    def __len__(self) -> int:
        return len(self.document)

    def get(self, key: str, default: "Any" = None) -> "Any":
        """Return a value of the document in force, or ``default``."""
        return self.document.get(key, default)

    def on_change(self, callback: "Callable[[Document], Any]") -> "Callable[[Document], Any]":
        """Decorate a function (or coroutine function) that takes each new document.

        It is not called for the document that the flash held at the start.
        """
        self._callbacks.append(callback)
        return callback

    def report(self, state: "Document") -> None:
        """Tell the back-end what holds now. Raises ValueError when it is not JSON."""
        body = encode_config_state(self.version, APPLIED, state)
        self._reported = state
        self._device.put(COMMANDS, CONFIG_STATE, body)

    # -- what the device calls -------------------------------------------------------

    def greet(self, hello: "Hello") -> None:
        """Say which version is in force."""
        hello.config_version = self.version

    def receive(self, event: "Received") -> None:
        """Take a CONFIG. Raises ProtocolError when it is none."""
        decode_config(event.payload)
        self._wanted = event.payload  # the newest wins
        if not self._is_applying:
            self._is_applying = True
            self._device.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._wanted is not None:
                payload = self._wanted
                self._wanted = None
                await self._apply(payload)
        finally:
            self._is_applying = False

    async def _apply(self, payload: bytes) -> None:
        version, document = decode_config(payload)
        if version == self.version:
            self.report(self._reported)
            return
        accepted: "list[Callable[[Document], Any]]" = []
        reported: "Document" = {}
        try:
            for callback in self._callbacks:
                accepted.append(callback)
                answer = await port.wait_for_ms(_ask(callback, document), APPLY_MS)
                if isinstance(answer, dict):
                    reported.update(answer)
            body = encode_config_state(version, APPLIED, reported)
            if self._path:
                saved.write(self._path, payload)
        except Exception as error:
            await self._take_back(accepted)
            reason = "%s: %s" % (type(error).__name__, error)
            body = encode_config_state(version, REJECTED, reason[:MAX_TEXT])
        else:
            self.version, self.document, self._reported = version, document, reported
        self._device.put(COMMANDS, CONFIG_STATE, body)

    async def _take_back(self, accepted: "list[Callable[[Document], Any]]") -> None:
        """Give the old document again to those that took the new one."""
        for callback in accepted:
            try:
                await port.wait_for_ms(_ask(callback, self.document), APPLY_MS)
            except Exception as error:
                self._device.report(error, "config")

    def _load(self) -> None:
        payload = saved.read(self._path)
        if payload is not None:
            try:
                self.version, self.document = decode_config(payload)
            except ProtocolError as error:
                self._device.report(error, "config")


async def _ask(callback: "Callable[[Document], Any]", document: "Document") -> "Any":
    answer = callback(document)
    if hasattr(answer, "send"):  # a coroutine, of either interpreter
        answer = await answer
    return answer
