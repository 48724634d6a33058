"""Redis, as the forwarder sees it: a link with a cursor. Only this package touches redis-py.

`scripts` is what runs inside Redis, `session` speaks to it synchronously in a thread, `failures` says what went wrong,
and `link` is the face for trio. `probe` only looks, for the doctor.
"""

from synceventsd.redis_sink.link import Link, open_link

__all__ = ["Link", "open_link"]
