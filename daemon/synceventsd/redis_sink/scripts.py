"""What runs inside Redis: each script decides and acts in one step that nothing can come between.

Scripts do not roll back, and Redis looks for reasons to refuse a write (read-only, out of memory, no disk) only at the
first write, unless the script has a shebang. So both: a shebang where the server knows it, and the cursor is written
before the first event goes out. `core.cursor.decide` holds the same rules in Python.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from attrs import field, frozen

SHEBANG: Final = "#!lua\n"  # Redis 7; 6.2 takes it for a syntax error


@frozen
class Script:
    """A script, with the names by which a server that has seen it knows it."""

    text: str
    _shas: tuple[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_shas", (_sha(self.text), _sha(SHEBANG + self.text)))

    def source(self, *, shebang: bool) -> str:
        """Return the text to send."""
        return SHEBANG + self.text if shebang else self.text

    def sha(self, *, shebang: bool) -> str:
        """Return the name of that text."""
        return self._shas[shebang]


def _sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


# ARGV: what the cursor must hold ("=" and its text, or "-" for no cursor), the new text, its number.
CLAIM: Final = Script(
    """\
local raw = redis.call('GET', KEYS[1])
if (raw and '=' .. raw or '-') ~= ARGV[1] then return {'moved', 0} end
redis.call('SET', KEYS[1], ARGV[2])
return {'done', tonumber(ARGV[3])}
"""
)

# ARGV: "<epoch>-", highest number known, number of the first event, channel, the events.
# A PUBLISH can still fail (the channel is not in the user's ACL): then the cursor goes back to the last one that did
# not, so that none is skipped.
DELIVER: Final = Script(
    """\
local raw = redis.call('GET', KEYS[1])
local prefix, known, first, channel = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local last = first + #ARGV - 5
local cur = nil
if raw and string.sub(raw, 1, #prefix) == prefix then
  local digits = string.match(raw, '^%d+$', #prefix + 1)
  if digits then cur = tonumber(digits) end
end
if not cur then return {'moved', 0} end
if cur > known and cur >= first then return {'ahead', cur} end
if first > cur + 1 then return {'behind', cur} end
if last <= cur then return {'done', cur} end
redis.call('SET', KEYS[1], prefix .. string.format('%d', last))
for seq = cur + 1, last do
  local reply = redis.pcall('PUBLISH', channel, ARGV[seq - first + 5])
  if type(reply) == 'table' and reply.err then
    redis.call('SET', KEYS[1], prefix .. string.format('%d', seq - 1))
    return reply
  end
end
return {'done', last}
"""
)
