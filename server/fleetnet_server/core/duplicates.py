"""Finds two devices that use one identity at once.

The newest session wins, so two devices with one bundle take turns: each is replaced, and comes
back. A device that was only restarted does not: its boot (HELLO) is over. So the boot of a
replaced session that returns while its successor lives gives the pair away.
"""

# More devices than this with one identity are found by the newest of them.
_BOOTS = 8


class Duplicates:
    """Remembers the boots of replaced sessions, for as long as a successor lives."""

    def __init__(self) -> None:
        self._replaced: dict[int, list[int]] = {}

    def replaces(self, device_id: int, old_boot: int, new_boot: int) -> bool:
        """A session takes over from a live one; True: two devices have this identity.

        A boot of 0 is one that its device did not tell.
        """
        if not old_boot or not new_boot or old_boot == new_boot:
            return False
        known = self._replaced.setdefault(device_id, [])
        is_back = new_boot in known
        if is_back:
            known.remove(new_boot)
        known.append(old_boot)
        del known[:-_BOOTS]
        return is_back

    def ended(self, device_id: int) -> None:
        """The last session of a device is over, and nobody took its place."""
        self._replaced.pop(device_id, None)
