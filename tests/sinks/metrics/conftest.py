"""A port that is free."""

from __future__ import annotations

import pytest

from tests import ports


@pytest.fixture
def free_port() -> int:
    """Return a port of the loopback interface on which nobody listens."""
    return ports.free_port()
