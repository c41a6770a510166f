"""A fleet under test."""

from __future__ import annotations

import pytest
from fake_fleet import Fleet


@pytest.fixture
def fleet() -> Fleet:
    """An empty one."""
    return Fleet()
