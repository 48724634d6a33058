"""Who may publish, by what the kernel says of the socket's other end: who, how many at once, how fast, for what.

Rule of this file: it only answers. What follows from an answer (a refusal, a reject, a pause) is the intake's business.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections import Counter
from typing import Final

import trio
from attrs import define, field, frozen

from synceventsd.accounts import group_id, user_id
from synceventsd.config.publishing import ALL, GLOBAL, PublishRule
from synceventsd.config.settings import IngestConfig
from synceventsd.core import throttle
from synceventsd.core.permissions import Grant, Permit, permit_for
from synceventsd.core.throttle import Throttle
from synceventsd.logs import get_logger

log = get_logger("intake")

# The groups that the peer was in when it connected (Linux 4.13). Python has no name for it, and reads at most 1 KiB.
SO_PEERGROUPS: Final = 59
LONGEST_ANSWER: Final = 1024


@frozen
class Refusal:
    """Why a connection is closed: the contract's code and a sentence."""

    code: str
    error: str


@frozen
class Peer:
    """The process at the other end, as the kernel noted it when it connected; its groups are all of them."""

    uid: int
    groups: frozenset[int]


@define(eq=False)
class Admission:
    """The settings that decide who may publish, how many connections each user has, and how fast its lines come."""

    _config: IngestConfig
    _users: frozenset[int] = field(init=False)
    _groups: frozenset[int] = field(init=False)
    _grants: tuple[Grant, ...] = field(init=False)
    _connected: Counter[int] = field(factory=Counter, init=False)
    _throttles: dict[int, Throttle] = field(factory=dict, init=False)
    waited: Counter[int] = field(factory=Counter, init=False)  # milliseconds that lines were made to wait, by user

    def __attrs_post_init__(self) -> None:
        self._users = frozenset(map(user_id, self._config.allow_users))
        self._groups = frozenset(map(group_id, self._config.allow_groups))
        self._grants = tuple(map(grant_of, self._config.rules))

    def refusal(self, peer: Peer) -> Refusal | None:
        """Return why this one may not connect now, or None."""
        most, most_of_user = self._config.max_clients, self._config.max_clients_per_user
        if self._connected.total() >= most:
            return Refusal(
                "too_many_clients",
                f"{most} publishers are connected already (ingest.max_clients = {most}): "
                "close some, or have the setting raised",
            )
        if (self._users or self._groups) and not (peer.uid in self._users or self._groups & peer.groups):
            error = f"user {peer.uid} is in neither ingest.allow_users nor ingest.allow_groups"
            return Refusal("forbidden", error)
        if most_of_user and self._connected[peer.uid] >= most_of_user:
            return Refusal(
                "too_many_clients",
                f"user {peer.uid} has {most_of_user} publishers connected already (ingest.max_clients_per_user = "
                f"{most_of_user}): share a publisher, close some, or have the setting raised",
            )
        return None

    def enter(self, peer: Peer) -> None:
        """Note that this one is connected."""
        self._connected[peer.uid] += 1

    def leave(self, peer: Peer) -> None:
        """Note that it is not any more."""
        self._connected[peer.uid] -= 1
        if not self._connected[peer.uid]:
            del self._connected[peer.uid]

    @property
    def connected(self) -> int:
        """Return how many publishers are connected."""
        return self._connected.total()

    def permit(self, peer: Peer) -> Permit | None:
        """Return what this one may publish for; None where there are no rules: everything."""
        return permit_for(self._grants, peer.uid, peer.groups) if self._grants else None

    def lines_at_once(self, most: int) -> int:
        """Return how many lines of a connection are taken in one step."""
        return throttle.lines_at_once(self._config.max_rate, most) if self._config.max_rate else most

    async def slow_down(self, peer: Peer, lines: int) -> None:
        """Wait until so many lines are paid for. Cancelling leaves them on the account."""
        rate, now = self._config.max_rate, trio.current_time()
        if not rate:
            return
        before = self._throttles.get(peer.uid) or throttle.begin(rate, now)
        after = self._throttles[peer.uid] = before.take(lines, now)
        if after.slowed != before.slowed:
            event = "publisher.slowed_down" if after.slowed else "publisher.slowed_down_no_more"
            log.warning(event, uid=peer.uid, setting="ingest.max_rate", value=rate)
        pause = after.pause(now)
        if pause:
            try:
                await trio.sleep(pause)
            finally:
                self.waited[peer.uid] += round((trio.current_time() - now) * 1000)


def grant_of(rule: PublishRule) -> Grant:
    """Return the rule with its names resolved."""
    integrations = frozenset(one for one in rule.integrations if isinstance(one, int))
    businesses = frozenset(None if one == GLOBAL else int(one) for one in rule.businesses if one != ALL)
    return Grant(
        None if rule.user is None else user_id(rule.user),
        None if rule.group is None else group_id(rule.group),
        None if ALL in rule.integrations else integrations,
        None if ALL in rule.businesses else businesses,
    )


def peer_of(sock: trio.socket.SocketType) -> Peer:
    """Return who is at the other end."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, gid = struct.unpack("3I", packed)
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, LONGEST_ANSWER)
    except OSError:  # more groups than Python can read, or a kernel before 4.13
        return Peer(uid, groups_of(uid, gid))
    return Peer(uid, frozenset((gid, *struct.unpack(f"{len(groups) // 4}I", groups))))


def groups_of(uid: int, gid: int) -> frozenset[int]:
    """Return the groups of a user, as the account database has them."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return frozenset((gid,))
    return frozenset(os.getgrouplist(name, gid))
