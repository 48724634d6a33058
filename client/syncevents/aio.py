"""The async face of the publisher, for trio and asyncio.

Rule of this file: nothing here sends. It waits, in the loop that runs, for what the sender's thread has settled.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from syncevents._version import __version__
from syncevents.backlog import Backlog, Statistics
from syncevents.events import (
    SyncCompleted,
    SyncEvent,
    SyncFailed,
    SyncOrderCreated,
    SyncOrderRejected,
    SyncOrderUpdated,
    SyncStarted,
)
from syncevents.publisher import DEFAULT_TIMEOUT, Publisher, prepare
from syncevents.wire import Reject
