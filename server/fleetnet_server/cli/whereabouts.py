"""Which device is at which server, where several have one database."""

from pathlib import Path
from typing import Any

from fleetnet_server.store.ports import Store


class Whereabouts:
    """Who is online, as of one look. Raises StoreUnavailable, StoreError.

    Attributes:
        headings: of the columns that a list has more; (): a store file does not know.
    """

    def __init__(self, store: Store):
        self.headings: tuple[str, ...] = ()
        self._nodes: dict[int, str] | None = None
        if not isinstance(store.place, Path):
            from fleetnet_server.store.postgres.nodes import nodes, whereabouts

            self._nodes = {device: where.node for device, where in whereabouts(store).items()}
            several = sum(node.is_alive for node in nodes(store)) > 1
            self.headings = ("ONLINE", "SERVER") if several else ("ONLINE",)

    def describe(self, device_id: int) -> dict[str, Any]:
        """Return what JSON has more of a device."""
        if self._nodes is None:
            return {}
        node = self._nodes.get(device_id)
        return {"online": node is not None, "node": node}

    def cells(self, row: dict[str, Any]) -> tuple[str, ...]:
        """Return the cells of ``headings`` for a row with ``describe``."""
        if self._nodes is None:
            return ()
        found = ("yes" if row["online"] else "no", row["node"] or "-")
        return found[: len(self.headings)]
