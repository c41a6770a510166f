"""Servers to attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hardening.rig import Attacked, run_attacked


@pytest.fixture(scope="session")
def attack() -> Callable[[dict[str, Any]], Any]:
    """`with attack(settings) as server:`"""
    return run_attacked


@pytest.fixture(scope="module")
def server() -> Iterator[Attacked]:
    """The echo engine with the limits of the defaults."""
    with run_attacked({"model": {"engine": "echo"}, "modelName": "chat"}) as attacked:
        yield attacked
