"""The setting `ingest.rules`: who may publish for which integrations and businesses.

A rule grants and never takes away; what the rules say together is decided in `core.permissions`.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from synceventsd.accounts import group_id, user_id
from synceventsd.config.rules import Refused, Rule

ALL = "*"
GLOBAL = "global"  # among businesses: the events of no business

_LARGEST_ID = 2**32 - 1
_KEYS = frozenset(("user", "group", "integrations", "businesses"))


@attrs.frozen
class PublishRule:
    """One rule, as written: a user or a group, ids or `"*"`, and among the businesses perhaps `"global"`."""

    user: str | None
    group: str | None
    integrations: tuple[int | str, ...]
    businesses: tuple[int | str, ...]

    def as_toml(self) -> dict[str, Any]:
        """The rule as the file has it."""
        who = {"user": self.user} if self.group is None else {"group": self.group}
        return {**who, "integrations": list(self.integrations), "businesses": list(self.businesses)}


def publish_rules() -> Rule:
    """A list of rules; as text in JSON, empty text being the empty list."""

    def check(value: object) -> tuple[PublishRule, ...]:
        if not isinstance(value, list):
            raise Refused
        problems = [f"rule {number}: {fault}" for number, one in enumerate(value, 1) for fault in _faults(one)]
        if problems:
            raise Refused(*problems)
        return tuple(
            PublishRule(one.get("user"), one.get("group"), tuple(one["integrations"]), tuple(one["businesses"]))
            for one in value
        )

    def from_text(given: str) -> object:
        try:
            return json.loads(given) if given.strip() else []
        except (ValueError, RecursionError):
            return given

    allowed = (
        'a list of tables (as a variable: JSON), each with user or group, integrations = [ids] or ["*"], '
        'businesses = [ids], "global" for events of no business, or ["*"] for everything'
    )
    return Rule(allowed, check, from_text, lambda rules: [rule.as_toml() for rule in rules])


def _faults(rule: object) -> Iterator[str]:
    """What is wrong with one rule, a sentence each."""
    if not isinstance(rule, dict):
        yield f"{rule!r:.100} is no table"
        return
    for key in sorted(rule.keys() - _KEYS, key=str):
        yield f"it has an unknown key {key!r:.100}"
    if ("user" in rule) == ("group" in rule):
        yield "it needs a user or a group, and not both"
    for kind, resolve in (("user", user_id), ("group", group_id)):
        if kind in rule and not _exists(rule[kind], resolve):
            yield f"there is no {kind} {rule[kind]!r:.100}"
    yield from _faults_of_ids(rule, "integrations", 0, ())
    yield from _faults_of_ids(rule, "businesses", 1, (GLOBAL,))


def _exists(name: object, resolve: Callable[[str], int]) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        resolve(name)
    except LookupError:
        return False
    return True


def _faults_of_ids(rule: dict[Any, Any], key: str, low: int, words: tuple[str, ...]) -> Iterator[str]:
    ids = rule.get(key)
    if not isinstance(ids, list) or not ids:
        yield f'{key} must be a list of ids, or ["*"]'
        return
    for one in ids:
        is_id = isinstance(one, int) and not isinstance(one, bool) and low <= one <= _LARGEST_ID
        if not is_id and one not in (ALL, *words):
            yield f"{key} holds {one!r:.100}, which is no id from {low} to {_LARGEST_ID}"
