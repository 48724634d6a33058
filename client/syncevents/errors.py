"""What can be raised by the client besides TypeError, ValueError and TimeoutError for wrong arguments and lateness."""

from syncevents.wire import Reject


class SyncEventsError(Exception):
    """The base of this library's own errors."""


class QueueFull(SyncEventsError):
    """As many events as `max_pending` allows wait for their acknowledgement; this one was not queued."""


class Rejected(SyncEventsError):
    """The daemon did not store some events.

    `rejects` holds what was rejected since the last flush, at most the newest 1000; `count` says how many it was.
    """

    def __init__(self, rejects: tuple[Reject, ...], count: int) -> None:
        first = rejects[0]
        events = "1 event was" if count == 1 else f"{count} events were"
        super().__init__(f"{events} rejected, for example id {first.id}: {first.code}: {first.error}")
        self.rejects = rejects
        self.count = count

    def __reduce__(self) -> tuple[type["Rejected"], tuple[tuple[Reject, ...], int]]:
        """Pickle by the arguments, so that the error crosses process boundaries."""
        return Rejected, (self.rejects, self.count)


class Refused(SyncEventsError):
    """The daemon does not let this reader have what it asked for; asking again would not change that.

    `status` is that of HTTP: 401 without a valid token, 403 where the token does not open what was asked for, 404 where
    there is no such path (is the base path right?), and the others below 500 but 408, 425 and 429.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type["Refused"], tuple[int, str]]:
        """Pickle by the arguments, so that the error crosses process boundaries."""
        return Refused, (self.status, str(self))


class NotUnderstood(SyncEventsError):
    """What came is no stream of synceventsd's, or of a daemon that this version does not understand."""
