"""Brings changes of the registry and the policy to the sessions that live.

`fleetnet device disable` and its like write the store; each change has a row in the audit log,
and that log's newest id is what is looked at, four times a second. A device that may no longer
be here gets what is durable acknowledged, and BYE with the reason; nobody else notices.
"""

import asyncio
import logging
from typing import Protocol

from fleetnet import errors
from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.sessions import Sessions
from fleetnet_server.identity.crl import issuer_hash
from fleetnet_server.identity.policy import Policy
from fleetnet_server.identity.registry import DISABLED, QUARANTINED

_log = logging.getLogger("fleetnet.watch")

# How long a device that has to go may wait for its last messages to become durable.
_FLUSH_S = 1.0

_CHANGES = "device-"


class ChangeLog(Protocol):
    """The audit log, to be read (store/audit.py)."""

    def newest(self) -> int: ...

    def after(self, number: int) -> list[tuple[int, str, str | None]]: ...


class PolicySource(Protocol):
    """The policy, and whether its file is another one (identity/policy.py)."""

    policy: Policy
    problem: str

    def refresh(self) -> bool: ...


class RevokedElsewhere(Protocol):
    """The lists of imported CAs (identity/crl_folder.py)."""

    revoked: frozenset[tuple[bytes, int]]
    problem: str

    def refresh(self) -> bool: ...


class Watch:
    """Made on a running loop, looked after by a Lookout (core/lookout.py).

    Attributes:
        dismissed: sessions that were ended.
    """

    def __init__(
        self,
        changes: ChangeLog,
        policy: PolicySource,
        lists: RevokedElsewhere,
        sessions: Sessions,
        audit: AuditLog,
    ):
        self._changes = changes
        self._policy = policy
        self._lists = lists
        self._sessions = sessions
        self._audit = audit
        self._seen = changes.newest()
        self._problem = self._list_problem = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.dismissed = 0
        sessions.use_policy(policy.policy)
        sessions.use_lists(lists.revoked)

    def look(self) -> None:
        """Act on what changed since the last look."""
        self._look_at_policy()
        self._look_at_lists()
        names: set[str | None] = set()
        while rows := self._changes.after(self._seen):
            self._seen = rows[-1][0]
            names |= {device for _, action, device in rows if action.startswith(_CHANGES)}
        if not names:
            return
        # Links that are still greeting are judged again, by this, at their HELLO.
        self._sessions.changes += 1
        for peer in list(self._sessions.live.values()):
            if peer.name in names and not peer.via:
                self._reconsider(peer)
        self._sessions.relays.reconsider(names)

    def use_issuers(self, ours: frozenset[bytes], accepted: frozenset[bytes]) -> None:
        """Take devices of these CAs only (issuer_hash), and end the sessions of others."""
        self._sessions.use_issuers(ours, accepted)
        for peer in list(self._sessions.live.values()):
            if peer.foreign and issuer_hash(peer.foreign) not in ours | accepted:
                self._dismiss(peer, errors.REVOKED)

    async def stop(self) -> None:
        """Let the sessions that have to go end."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _look_at_policy(self) -> None:
        source = self._policy
        if source.refresh():
            self._sessions.use_policy(source.policy)
            _log.warning("policy changed: %s", source.policy)
            groups = sorted(source.policy.groups)
            detail = {"unknown": source.policy.unknown, "groups": groups}
            self._audit.note("server", "policy-reloaded", None, detail)
        if source.problem != self._problem:
            self._problem = source.problem
            if source.problem:
                _log.error("%s; the policy in force stays", source.problem)
                self._audit.note("server", "policy-broken", None, {"problem": source.problem})

    def _look_at_lists(self) -> None:
        source = self._lists
        if source.refresh():
            self._sessions.use_lists(source.revoked)
            self._audit.note("server", "lists-reloaded", None, {"revoked": len(source.revoked)})
            for peer in list(self._sessions.live.values()):
                if self._sessions.is_revoked_elsewhere(peer):
                    self._dismiss(peer, errors.REVOKED)
        if source.problem != self._list_problem:
            self._list_problem = source.problem
            if source.problem:
                _log.error("%s; the lists in force stay", source.problem)
                self._audit.note("server", "lists-broken", None, {"problem": source.problem})

    def _reconsider(self, peer: Peer) -> None:
        device = self._sessions.registry.lookup(peer.name)
        if device is None:
            self._dismiss(peer, errors.UNKNOWN_DEVICE)
        elif peer.serial in device.revoked:
            self._dismiss(peer, errors.REVOKED)
        elif device.state == DISABLED:
            self._dismiss(peer, errors.DISABLED)
        elif (device.state == QUARANTINED) != peer.is_quarantined:
            # Everything begins anew, with the services that it may have now.
            self._dismiss(peer, errors.NORMAL)
        else:
            peer.group = device.group
            self._sessions.restrict(peer)

    def _dismiss(self, peer: Peer, reason: int) -> None:
        self.dismissed += 1
        task = asyncio.get_running_loop().create_task(self._end(peer, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, peer: Peer, reason: int) -> None:
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._sessions.flush()
        except TimeoutError:
            pass  # it goes without; what is not durable it keeps
        self._sessions.dismiss(peer, reason)
