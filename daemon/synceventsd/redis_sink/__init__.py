"""Redis, as the forwarder sees it: a link with a cursor. Only this package touches redis-py.

`wire` is redis-py's connection, made in a thread and used from trio; `scripts` is what runs inside Redis, `link` has it
run, and `failures` says what went wrong. `probe` only looks, for the doctor.
"""

from synceventsd.redis_sink.link import Link, open_link

__all__ = ["Link", "open_link"]
