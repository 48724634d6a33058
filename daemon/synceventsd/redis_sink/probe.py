"""Looking at a Redis without changing anything: for `synceventsd doctor`.

Rule of this file: what is needed is queued in a transaction and discarded, because Redis refuses at queueing what it
would refuse at execution: a right that is missing, a replica, no memory. Blocks; to be called in a thread.
"""

from __future__ import annotations

from typing import Any, Final, cast

import redis.exceptions as theirs
from attrs import define

from synceventsd.config import RedisConfig, mask_password
from synceventsd.core.checkup_redis import RedisFacts, parse_pubsub_limit, parse_save
from synceventsd.core.cursor import cursor_key
from synceventsd.redis_sink.failures import translated
from synceventsd.redis_sink.wire import connect

_NO_LOG: Final = "doctor"  # in place of a log's id in the cursor's key, which the user's rights must cover


def probe(config: RedisConfig) -> RedisFacts:
    """Return what there is to know.

    Raises:
        RedisUnavailable: it cannot be reached, or does not let this user in.
    """
    url = config.url or ""
    with translated(mask_password(url)):
        wire = connect(config)
        try:
            return _Probe(wire, config.channel).facts()
        finally:
            wire.disconnect()


@define(eq=False)
class _Probe:
    _wire: Any
    _channel: str

    def facts(self) -> RedisFacts:
        info = self._info()
        scripts = self._refusal("EVAL", "return 1", "1", cursor_key(_NO_LOG)) is None
        refusals, transactions = self._rehearse()
        hard, soft, seconds = parse_pubsub_limit(self._setting("client-output-buffer-limit") or "") or (
            None,
            None,
            None,
        )
        saves = self._setting("save")
        append_only = info.get("aof_enabled")
        return RedisFacts(
            version=info.get("valkey_version") or info.get("redis_version"),
            role=info.get("role"),
            refusals=refusals,
            scripts=scripts,
            transactions=transactions,
            append_only=None if append_only is None else append_only == "1",
            saves=None if saves is None else parse_save(saves),
            save_failed=info.get("rdb_last_bgsave_status", "ok") != "ok",
            policy=info.get("maxmemory_policy"),
            used=_number(info.get("used_memory")),
            maxmemory=_number(info.get("maxmemory")),
            pubsub_hard=hard,
            pubsub_soft=soft,
            pubsub_soft_seconds=seconds,
        )

    def _rehearse(self) -> tuple[dict[str, str], bool]:
        """Return what would be refused, and whether transactions are allowed at all."""
        key = cursor_key(_NO_LOG)
        refusals = {}
        refused = self._refusal("GET", key)
        if refused is not None:
            refusals["GET"] = refused
        if self._refusal("WATCH", key) is not None or self._refusal("MULTI") is not None:
            return refusals, False
        for command in (("SET", key, ""), ("PUBLISH", self._channel, "")):
            refused = self._refusal(*command)
            if refused is not None:
                refusals[command[0]] = refused
        return refusals, self._refusal("DISCARD") is None

    def _info(self) -> dict[str, str]:
        try:
            reply = self._ask("INFO")
        except theirs.ResponseError:  # not permitted: unknown, and that is no fault
            return {}
        rows = cast(bytes, reply).decode(errors="replace").splitlines()
        return dict(row.split(":", 1) for row in rows if ":" in row and not row.startswith("#"))

    def _setting(self, name: str) -> str | None:
        try:
            reply = self._ask("CONFIG", "GET", name)
        except theirs.ResponseError:
            return None
        match reply:
            case [_, bytes() as value]:
                return value.decode(errors="replace")
        return None

    def _refusal(self, *command: str) -> str | None:
        try:
            self._ask(*command)
        except theirs.ResponseError as error:
            # Of an error's text no more than its beginning: the rest may quote arguments.
            code = getattr(error, "status_code", None)
            return f"{code} {error}"[:80] if isinstance(code, str) else str(error)[:80]
        return None

    def _ask(self, *command: str) -> Any:
        self._wire.send_packed_command(self._wire.pack_commands([command]), check_health=False)
        return self._wire.read_response()


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
