"""`syncevents demo`: the whole system on one machine, with a shop's orders running through it.

Where things stand: `command` is what one types, `intro` what is said at the start, `processes` what is started,
`readers` who watches, `sync` the synchronisation, `watch` and `tally` what was seen of it, `shopify` the orders.
"""

from syncevents.demo.command import demo

__all__ = ["demo"]
