from collections.abc import Iterator
from pathlib import Path

import pytest
from client_peer import Peer


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """A daemon that is not started yet, and is stopped at the end."""
    peer = Peer(tmp_path / "sock")
    yield peer
    peer.stop()
