"""What core tells the audit log (store/audit.py), injected by app: core imports no store."""

from typing import Any, Protocol


class AuditLog(Protocol):
    """Takes rows on the event loop, and never waits."""

    def note(
        self, actor: str, action: str, device: str | None, detail: dict[str, Any] | None = None
    ) -> None:
        """Keep that ``actor`` did something about a device."""

    def note_repeated(
        self, actor: str, action: str, device: str | None, detail: dict[str, Any]
    ) -> bool:
        """The same for what may happen often; True: not within the last minute."""
        ...
